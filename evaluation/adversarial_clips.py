"""Make clips that exploit a naive reward of smoothness, and the smooth clip that they are compared with.

A camera pans over a textured wall; every clip spoils that in one way. Deterministic by seed.
"""

from collections.abc import Sequence

import cv2
import numpy
import torch
from torch import Tensor

FRAMES = 81
SIZE = (240, 416)
STEADY = 3.0
"""Pixels per frame of the smooth clip and of the reference."""
_SLANT = (0.94, 0.34)
"""Direction of the camera (x, y), along neither an edge nor the pixel grid."""
_BURST, _BURST_FRAMES = 24.0, 3
_JITTER = 3.0
_NOISE = 2 / 255
_BRIGHTENING = 0.35


def adversarial_clips(frames: int = FRAMES, size: tuple[int, int] = SIZE, seed: int = 0) -> dict[str, Tensor]:
    """Make pixels [T 3 H W] in [0, 1] of every clip by name: `smooth`, then others by their flaw."""
    wall, other = textured_wall(size, seed), textured_wall(size, seed + 1)
    time = numpy.arange(frames)
    smooth = _pan(wall, _path([STEADY] * (frames - 1)), size)
    burst = numpy.full(frames - 1, STEADY)
    burst[frames // 2 : frames // 2 + _BURST_FRAMES] = _BURST
    stall = STEADY * (1 - time[:-1] / (0.6 * frames)).clip(0)
    shaken = numpy.random.default_rng(seed).normal(0, _JITTER, (frames, 2))
    after = _pan(other, _path([STEADY] * (frames - 1)), size)
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(seed))
    light = _BRIGHTENING * torch.linspace(0, 1, frames)[:, None, None, None]
    return {
        "smooth": smooth,
        "fast": _pan(wall, _path([3 * STEADY] * (frames - 1)), size),
        "slow": _pan(wall, _path([STEADY / 3] * (frames - 1)), size),
        "creep": _pan(wall, _path([STEADY / 10] * (frames - 1)), size),
        "static": smooth[:1].expand_as(smooth),
        "stall": _pan(wall, _path(stall), size),
        "burst": _pan(wall, _path(burst), size),
        "cut": torch.cat([smooth[: frames // 2], after[frames // 2 :]]),
        "jitter": _pan(wall, _path([STEADY] * (frames - 1)) + shaken, size),
        "noise": (0.5 + _NOISE * noise).clamp(0, 1),
        "brightening": (smooth + light).clamp(0, 1),
    }


def reference_clip(frames: int = FRAMES, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    """Make pixels [T 3 H W] of the pan that ends where the clips of the same seed begin."""
    return _pan(textured_wall(size, seed), _path([STEADY] * (frames - 1)) - STEADY * frames * numpy.array(_SLANT), size)


def textured_wall(size: tuple[int, int], seed: int) -> numpy.ndarray:
    """Draw a seamless wall [h w 3] in [0.1, 0.8], with detail at every scale from 4 pixels up."""
    generator = numpy.random.default_rng(seed)
    height, width = (2 * side for side in size)
    distance = numpy.hypot(*numpy.meshgrid(numpy.fft.fftfreq(height), numpy.fft.fftfreq(width), indexing="ij"))
    # Falls like a photograph's spectrum, and ends at half of what the grid holds: reading between pixels is exact.
    spectrum = (distance < 0.25) / (distance + 2 / max(size))
    white = numpy.fft.fft2(generator.normal(size=(height, width, 3)), axes=(0, 1))
    wall = numpy.fft.ifft2(white * spectrum[..., None], axes=(0, 1)).real
    wall = wall @ (0.6 * numpy.ones((3, 3)) / 3 + 0.4 * numpy.eye(3))
    wall /= wall.std()
    return (0.45 + 0.12 * wall).clip(0.1, 0.8).astype(numpy.float32)


def _path(speed: Sequence[float]) -> numpy.ndarray:
    """Integrate `speed` [T-1] in pixels per frame to the places [T 2] (x, y) of a camera."""
    return numpy.concatenate([[0], numpy.cumsum(speed)])[:, None] * numpy.array(_SLANT)


def _pan(wall: numpy.ndarray, places: numpy.ndarray, size: tuple[int, int]) -> Tensor:
    """Render frames [T 3 H W] of `size` seen from `places` [T 2] (x, y) of a seamless wall."""
    rows, columns = numpy.mgrid[: size[0], : size[1]].astype(numpy.float32)
    frames = [
        cv2.remap(
            wall,
            (columns + x).astype(numpy.float32),
            (rows + y).astype(numpy.float32),
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_WRAP,
        )
        for x, y in places
    ]
    return torch.from_numpy(numpy.stack(frames)).permute(0, 3, 1, 2).clamp(0, 1)
