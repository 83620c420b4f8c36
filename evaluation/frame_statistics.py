"""Measure single frames and pairs of frames of any video, on the CPU: brightness, colour, sharpness, motion."""

import math
from typing import NamedTuple

import cv2
import numpy
import torch

from rewards.flow.flow_motion import fastest
from rewards.flow.optical_flow import DisFlow, Flow

FLOW_ROWS = 240
"""Shorter side, in pixels, of the frames that flow is computed on: larger ones are scaled down, none is scaled up."""
DYNAMIC_SPEED = 6.0 / 256
"""VBench's threshold of a moving pair: speed of the fastest 5 % of pixels, as a share of the shorter side."""
_LOOK_ROWS = 96
_TOP_SHARE = 0.05
_DARK, _BRIGHT = 5, 250
"""Luma below and above which a pixel counts as clipped."""
_BINS = 8
_THUMBNAIL = 8
_STILL = 1.0
"""Mean change of any of 8 x 8 cells, of 255, below which a frame repeats the one before: above compression noise."""


class FrameStatistics(NamedTuple):
    """Hold the numbers of one frame, each in [0, 1] but sharpness."""

    luma: float
    """Mean luma (Rec. 601)."""
    contrast: float
    """95th less 5th percentile of luma."""
    clipped: float
    """Share of pixels with luma below 5 or above 250."""
    saturation: float
    """Mean of largest less smallest channel."""
    sharpness: float
    """Root mean squared Sobel gradient of luma, over 255, at the video's own size."""


class PairStatistics(NamedTuple):
    """Hold the numbers of the optical flow between two frames."""

    motion: float
    """Mean length of flow, valid pixels, as a share of the diagonal."""
    validity: float
    """Share of pixels whose forward and backward flow agree."""
    fastest: float
    """Mean length over the fastest 5 % of pixels, as a share of the shorter side."""
    change: "Change"


class Change(NamedTuple):
    """Hold how the things that both frames show have changed, found by flow: what comes into view does not count."""

    luma: float
    """Difference of mean luma, 0 to 1."""
    contrast: float
    """Doublings of the standard deviation of luma."""
    clipped: float
    """Difference of the share of clipped pixels."""
    saturation: float
    """Doublings of mean saturation."""
    sharpness: float
    """Doublings of the root mean squared gradient."""


class FrameView(NamedTuple):
    """Hold a frame in the forms that the statistics need; each is made once."""

    pixels: numpy.ndarray
    """[H W 3] uint8."""
    grey: numpy.ndarray
    """[H W] uint8."""
    small: numpy.ndarray
    """[h w 3] uint8, shorter side at most FLOW_ROWS."""
    small_grey: numpy.ndarray
    """[h w] uint8."""


def view(pixels: numpy.ndarray) -> FrameView:
    """Prepare a frame [H W 3] uint8."""
    height, width = pixels.shape[:2]
    scale = min(1.0, FLOW_ROWS / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = pixels if scale == 1.0 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return FrameView(pixels, grey, small, grey if scale == 1.0 else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))


def frame_statistics(frame: FrameView) -> FrameStatistics:
    """Measure one frame."""
    histogram = numpy.bincount(frame.grey.ravel(), minlength=256)
    total = histogram.sum()
    below = histogram.cumsum()
    low, high = (int(numpy.searchsorted(below, share * total)) for share in (0.05, 0.95))
    mean = float(histogram @ numpy.arange(256)) / total
    clipped = float(histogram[:_DARK].sum() + histogram[_BRIGHT + 1 :].sum()) / total
    chroma = _chroma(frame.small)
    across, down = cv2.spatialGradient(frame.grey)
    energy = float(cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)) / total / 64
    return FrameStatistics(mean / 255, (high - low) / 255, clipped, float(chroma.mean()) / 255, math.sqrt(energy) / 255)


def colour_histogram(frame: FrameView) -> numpy.ndarray:
    """Return the shares [512] of Lab colours, 8 bins a channel."""
    lab = cv2.cvtColor(frame.small, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [_BINS] * 3, [0, 256] * 3).ravel()
    return counts / counts.sum()


def histogram_distance(one: numpy.ndarray, other: numpy.ndarray) -> float:
    """Compute the Hellinger distance of two histograms of shares, in [0, 1]."""
    return math.sqrt(max(0.0, 1.0 - float(numpy.sqrt(one * other).sum())))


def thumbnail(frame: FrameView) -> numpy.ndarray:
    """Shrink a frame to 8 x 8 colours [192] in [0, 1]."""
    tiny = cv2.resize(frame.small, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return tiny.astype(numpy.float32).ravel() / 255


def is_still(before: FrameView, frame: FrameView) -> bool:
    """Return whether a frame repeats the one before, but for compression noise; a small thing that moves is enough."""
    change = cv2.absdiff(before.small, frame.small).astype(numpy.float32)
    return float(cv2.resize(change, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).max()) < _STILL


def pair_statistics(engine: DisFlow, before: FrameView, frame: FrameView) -> PairStatistics:
    """Measure the optical flow between two frames. Raises ConfigError for frames that are too small for DIS."""
    flow = engine.of_grey(numpy.stack([before.small_grey, frame.small_grey]))
    height, width = frame.small_grey.shape
    valid = ~flow.invalid[0]
    length = torch.hypot(*flow.forward[0])
    motion = float(length[valid].mean()) if valid.any() else 0.0
    top, _ = fastest(flow, _TOP_SHARE)
    shares = motion / math.hypot(height, width), float(valid.float().mean()), float(top) / min(height, width)
    return PairStatistics(*shares, change_along(flow, before, frame))


def change_along(flow: Flow, before: FrameView, frame: FrameView) -> Change:
    """Compare what both frames show; where the flow is not valid, the whole frames count by that share.

    Pixels of the second frame are taken as they are, not in between: that would blur, and blur adds up over a video.
    """
    height, width = frame.small_grey.shape
    rows, columns = numpy.mgrid[:height, :width].astype(numpy.float32)
    x, y = (flow.forward[0].numpy() + numpy.stack([columns, rows])).clip(-1, max(height, width))
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    seen = inside & ~flow.invalid[0].numpy()
    levels = []
    for view_, moved in ((before, False), (frame, True)):
        across, down = cv2.spatialGradient(view_.small_grey)
        energy = across.astype(numpy.float32) ** 2 + down.astype(numpy.float32) ** 2
        maps = [view_.small_grey, _chroma(view_.small), energy]
        whole = _levels(*maps)
        if moved:
            maps = [cv2.remap(each, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE) for each in maps]
        levels.append((_levels(*(each[seen] for each in maps)) if seen.any() else whole, whole))
    followed, direct = (levels[1][i] - levels[0][i] for i in (0, 1))
    share = seen.mean()
    return Change(*(share * followed + (1 - share) * direct).tolist())


def look(frame: FrameView) -> numpy.ndarray:
    """Return nine numbers of a frame's look: mean, spread and sharpness of lightness and of both colour axes (CIELAB).

    At most 96 rows are looked at, so that the size of a video does not matter.
    """
    height, width = frame.small.shape[:2]
    scale = min(1.0, _LOOK_ROWS / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = frame.small if scale == 1.0 else cv2.resize(frame.small, size, interpolation=cv2.INTER_AREA)
    numbers = []
    for plane in cv2.split(cv2.cvtColor(pixels.astype(numpy.float32) / 255, cv2.COLOR_RGB2LAB)):
        across, down = (cv2.Sobel(plane, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
        numbers += [plane.mean(), plane.std(), math.sqrt(float((across**2 + down**2).mean()))]
    return numpy.array(numbers, dtype=numpy.float64)


def _levels(grey: numpy.ndarray, chroma: numpy.ndarray, energy: numpy.ndarray) -> numpy.ndarray:
    """Compute what `Change` is the difference of, of pixels of any shape."""
    doublings = numpy.log2([grey.std() + 0.5, chroma.mean() + 0.5, math.sqrt(energy.mean() / 64 + 0.25)])
    clipped = ((grey < _DARK) | (grey > _BRIGHT)).mean()
    return numpy.array([grey.mean() / 255, doublings[0], clipped, doublings[1], doublings[2]])


def _chroma(pixels: numpy.ndarray) -> numpy.ndarray:
    """Return largest less smallest channel [H W]; numpy's max over the last axis takes thirty times as long."""
    red, green, blue = cv2.split(pixels)
    return cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
