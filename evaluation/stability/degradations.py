"""Degrade any clip as long videos degrade, by a severity in [0, 1]: the test set of judges of Visual Stability.

Harmful kinds must lower a score the more the worse they are. Benign kinds change the picture as the prompt asks: a
judge must not react. Severity 0 returns the clip as it is. Deterministic by seed; streams frame by frame.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy

ONSET = 0.2
"""Share of the clip that stays as it is: what a judge compares with."""
CUT_AT = 0.5
"""Share of the clip at which the benign cut happens."""
_LUMA_SHIFT = 0.5
"""Largest change of brightness, of the whole range."""
_CONTRAST_LOSS, _CLIPPING_GAIN, _SATURATION_GAIN = 0.9, 5.0, 4.0
_NOISE_SPREAD = 0.25
_FROZEN, _HELD = 0.7, 0.9
"""Share at severity 1: of the clip that freezes, of frames that stutter holds."""
_LEAST_REPLAYED, _REPLAYED = 0.25, 0.7
"""Share of the clip that replays its beginning, at the lowest severity and at 1: less could not be recognised."""
_PAN_WINDOW = 0.4
"""Share of rows and columns that the moving window leaves out at severity 1."""
_CUT_WINDOW = 0.25
"""Share of rows and columns that the view behind the cut leaves out at severity 1."""
_SUNSET_GAIN = numpy.array([0.55, 0.32, 0.22])
"""Red, green and blue at the end of the sunset at severity 1, of what they were."""

Frames = Iterable[numpy.ndarray]
Change = Callable[[numpy.ndarray, float, numpy.random.Generator], numpy.ndarray]
"""Takes a picture [H W 3] of float32 in [0, 1] and a strength in [0, 1]; returns the changed picture."""
Process = Callable[[Frames, int, float, numpy.random.Generator], Iterator[numpy.ndarray]]
"""Takes frames, their number, severity and randomness; yields as many frames."""


@dataclass(frozen=True)
class Degradation:
    """Describe a kind of change over a clip."""

    name: str
    is_benign: bool
    prompt: str
    """Words that the clip's prompt gains, so that a benign change is one that was asked for."""
    process: Process
    scene_starts: tuple[float, ...] = ()
    """Shares of the clip at which a cut was asked for."""


def degrade(frames: Frames, count: int, kind: Degradation, severity: float, seed: int = 0) -> Iterator[numpy.ndarray]:
    """Yield the `count` frames [H W 3] uint8 of a clip, changed. Raises ValueError for a severity outside [0, 1]."""
    if not 0 <= severity <= 1:
        raise ValueError(f"severity must lie in [0, 1]; got {severity}")
    if severity == 0:
        yield from frames
    else:
        yield from kind.process(frames, count, severity, numpy.random.default_rng(seed))


def progress(number: int, count: int) -> float:
    """Compute how far frame `number` of `count` is between ONSET (0) and the end (1)."""
    share = number / max(1, count - 1)
    return max(0.0, (share - ONSET) / (1 - ONSET))


def _gradual(change: Change) -> Process:
    """Make a process whose strength grows evenly from ONSET to the end, up to the severity."""

    def process(frames: Frames, count: int, severity: float, rng: numpy.random.Generator) -> Iterator[numpy.ndarray]:
        for i, pixels in enumerate(frames):
            strength = severity * progress(i, count)
            if strength == 0:
                yield pixels
            else:
                picture = change(pixels.astype(numpy.float32) / 255, strength, rng)
                yield (picture.clip(0, 1) * 255).round().astype(numpy.uint8)

    return process


def _flatten(picture: numpy.ndarray, strength: float, _: numpy.random.Generator) -> numpy.ndarray:
    middle = picture.mean((0, 1))
    return middle + (picture - middle) * (1 - _CONTRAST_LOSS * strength)


def _clip(picture: numpy.ndarray, strength: float, _: numpy.random.Generator) -> numpy.ndarray:
    middle = picture.mean()
    return middle + (picture - middle) * (1 + _CLIPPING_GAIN * strength)


def _burn(picture: numpy.ndarray, strength: float, _: numpy.random.Generator) -> numpy.ndarray:
    grey = _grey(picture)
    return grey + (picture - grey) * (1 + _SATURATION_GAIN * strength)


def _bleach(picture: numpy.ndarray, strength: float, _: numpy.random.Generator) -> numpy.ndarray:
    grey = _grey(picture)
    return grey + (picture - grey) * (1 - strength)


def _drown(picture: numpy.ndarray, strength: float, rng: numpy.random.Generator) -> numpy.ndarray:
    noise = rng.standard_normal(picture.shape, dtype=numpy.float32)
    return (1 - strength) * picture + strength * (0.5 + _NOISE_SPREAD * noise)


def _set_sun(picture: numpy.ndarray, strength: float, _: numpy.random.Generator) -> numpy.ndarray:
    return picture * (1 - strength * (1 - _SUNSET_GAIN)).astype(numpy.float32)


def _grey(picture: numpy.ndarray) -> numpy.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]


def _freeze(frames: Frames, count: int, severity: float, _: numpy.random.Generator) -> Iterator[numpy.ndarray]:
    """Stop at a frame; the longer the stop the worse."""
    last = round((1 - _FROZEN * severity) * (count - 1))
    held = None
    for i, pixels in enumerate(frames):
        held = pixels if held is None or i <= last else held
        yield held


def _stutter(frames: Frames, count: int, severity: float, rng: numpy.random.Generator) -> Iterator[numpy.ndarray]:
    """Hold frames at random; a frame that is held at a severity is held at all larger ones."""
    draws = rng.random(count)
    held = None
    for i, pixels in enumerate(frames):
        holds = progress(i, count) > 0 and draws[i] < _HELD * severity
        held = pixels if held is None or not holds else held
        yield held


def _repeat(frames: Frames, count: int, severity: float, _: numpy.random.Generator) -> Iterator[numpy.ndarray]:
    """Replay the clip's beginning at its end, in turns where that is longer. Holds the beginning in memory."""
    start = max(1, round((1 - _LEAST_REPLAYED - (_REPLAYED - _LEAST_REPLAYED) * severity) * count))
    kept: list[numpy.ndarray] = []
    for i, pixels in enumerate(frames):
        if i < start:
            kept.append(pixels)
        yield pixels if i < start else kept[(i - start) % start]


def _pan(frames: Frames, count: int, severity: float, rng: numpy.random.Generator) -> Iterator[numpy.ndarray]:
    """Move a window over the clip, enlarged to its size, in a direction that the seed draws."""
    angle = rng.uniform(0, 2 * math.pi)
    for i, pixels in enumerate(frames):
        along = 2 * i / max(1, count - 1) - 1
        place = 0.5 + 0.5 * along * numpy.array([math.sin(angle), math.cos(angle)])
        yield crop(pixels, 1 - _PAN_WINDOW * severity, place)


def _cut(frames: Frames, count: int, severity: float, rng: numpy.random.Generator) -> Iterator[numpy.ndarray]:
    """Go on with another view in another light: a mirrored corner of the clip, larger and of another exposure."""
    place, gain = rng.uniform(0, 1, 2), 1 + severity * rng.uniform(-0.35, 0.35, 3)
    for i, pixels in enumerate(frames):
        if i < CUT_AT * count:
            yield pixels
        else:
            other = crop(pixels[:, ::-1], 1 - _CUT_WINDOW * severity, place)
            yield (other * gain).clip(0, 255).round().astype(numpy.uint8)


def crop(pixels: numpy.ndarray, share: float, place: numpy.ndarray) -> numpy.ndarray:
    """Cut a window of `share` of rows and columns, enlarged to the clip; `place` is its row and column, 0 to 1."""
    height, width = pixels.shape[:2]
    size = (share * width, share * height)
    centre = (size[0] / 2 + place[1] * (width - size[0]) - 0.5, size[1] / 2 + place[0] * (height - size[1]) - 0.5)
    move = numpy.array(
        [[share, 0, centre[0] - share * (width - 1) / 2], [0, share, centre[1] - share * (height - 1) / 2]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, move, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


KINDS = {
    kind.name: kind
    for kind in (
        Degradation("luma_up", False, "", _gradual(lambda picture, strength, _: picture + _LUMA_SHIFT * strength)),
        Degradation("luma_down", False, "", _gradual(lambda picture, strength, _: picture - _LUMA_SHIFT * strength)),
        Degradation("contrast_loss", False, "", _gradual(_flatten)),
        Degradation("clipping", False, "", _gradual(_clip)),
        Degradation("saturation_burn", False, "", _gradual(_burn)),
        Degradation("saturation_loss", False, "", _gradual(_bleach)),
        Degradation("freeze", False, "", _freeze),
        Degradation("stutter", False, "", _stutter),
        Degradation("noise", False, "", _gradual(_drown)),
        Degradation("repeat", False, "", _repeat),
        Degradation("pan", True, "the camera pans", _pan),
        Degradation("sunset", True, "the sun sets", _gradual(_set_sun)),
        Degradation("cut", True, "then the film cuts to another view", _cut, (CUT_AT,)),
    )
}
"""Every kind by name."""
