"""Exposure and sharpness against the same prompt's first seconds. Optical flow sees neither.

A deviation d, in units of the scale that a key gives, leaves exp(-d^2): 1 at no drift, flat where it is small.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rewards.flow.optical_flow import luma
from rewards.reward import Clip
from rewards.reward_config import RewardConfig

_CLIPPED = 1 / 255
"""Distance to black or white at which a value has nothing left to show."""
_LEAST_CONTRAST = 0.02
_LEAST_ENERGY = 1e-4
"""Added before logarithms: below these a frame is flat, and how flat does not matter."""


def exposure_drift(video: Tensor, horizon_frames: int) -> Tensor:
    """Distance [B T] of each frame's mean pixel value to the mean over its video's first `horizon_frames`.

    `video` is [B T C H W], the distance is in its unit. Each video is its own reference: the prompt does not say how
    bright it should be. Up and down count alike.
    """
    level = video.mean((2, 3, 4))
    return (level - level[:, :horizon_frames].mean(1, keepdim=True)).abs()


def exposure_of(pixels: Tensor) -> Tensor:
    """Mean luma, log contrast (95th less 5th percentile of luma) and clipped share [T 3] of `pixels` [T 3 H W]."""
    level = luma(pixels).flatten(1)
    low, high = (level.kthvalue(1 + round(share * (level.shape[1] - 1)), dim=1).values for share in (0.05, 0.95))
    clipped = ((pixels <= _CLIPPED) | (pixels >= 1 - _CLIPPED)).flatten(1).to(level).mean(1)
    return torch.stack([level.mean(1), (high - low + _LEAST_CONTRAST).log(), clipped], dim=1)


def sharpness_of(pixels: Tensor) -> Tensor:
    """Log Tenengrad [T 1] of `pixels` [T 3 H W]: the logarithm of the mean squared Sobel gradient of luma."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(pixels) / 8
    gradient = functional.conv2d(luma(pixels)[:, None], torch.stack([across, across.T])[:, None])
    return (gradient.square().sum(1).mean((1, 2)) + _LEAST_ENERGY).log()[:, None]


def undrifted(statistics: Tensor, reference: Tensor, scale: Tensor) -> Tensor:
    """Mean over frames of exp(-|d|^2): d from `statistics` [T N] to the mean of `reference` [R N], in `scale` [N]."""
    deviation = (statistics - reference.mean(0)) / scale
    return torch.exp(-deviation.square().sum(1)).mean()


class ExposureDrift:
    """1 where a clip is as bright, as rich in contrast and as little clipped as its reference."""

    needs = frozenset({"pixels", "reference"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self._scale = torch.tensor([config.exposure_scale, config.contrast_scale, config.clipped_scale])

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([_against_reference(clip, _exposure, self._scale) for clip in clips])


class SharpnessDrift:
    """1 where a clip is as sharp as its reference: neither blurred nor full of noise."""

    needs = frozenset({"pixels", "reference"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self._scale = torch.tensor([config.sharpness_scale])

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([_against_reference(clip, _sharpness, self._scale) for clip in clips])


def _exposure(clip: Clip) -> Tensor:
    return exposure_of(clip.pixels)


def _sharpness(clip: Clip) -> Tensor:
    return sharpness_of(clip.pixels)


def _against_reference(clip: Clip, statistics: Callable[[Clip], Tensor], scale: Tensor) -> Tensor:
    if clip.reference is None or len(clip.pixels) < 2:
        return torch.tensor(torch.nan)
    return undrifted(clip.once(statistics), clip.reference.once(statistics), scale.to(clip.pixels)).cpu()
