"""Measure single frames and pairs of frames of any video, on the CPU: brightness, colour, sharpness, motion."""

import math
from typing import NamedTuple

import cv2
import numpy
import torch

from rewards.flow.flow_motion import fastest
from rewards.flow.optical_flow import DisFlow

FLOW_ROWS = 240
"""Shorter side, in pixels, of the frames that flow is computed on: larger ones are scaled down, none is scaled up."""
DYNAMIC_SPEED = 6.0 / 256
"""VBench's threshold of a moving pair: speed of the fastest 5 % of pixels, as a share of the shorter side."""
_TOP_SHARE = 0.05
_DARK, _BRIGHT = 5, 250
"""Luma below and above which a pixel counts as clipped."""
_BINS = 8
_THUMBNAIL = 8
_STILL = 0.25
"""Mean change of luma, of 255, below which a frame repeats the one before; compression noise stays below."""


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
    red, green, blue = cv2.split(frame.small)  # numpy's max over the last axis takes thirty times as long
    chroma = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
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
    """Return whether a frame repeats the one before, but for compression noise."""
    return float(cv2.norm(before.small_grey, frame.small_grey, cv2.NORM_L1)) < _STILL * frame.small_grey.size


def pair_statistics(engine: DisFlow, before: FrameView, frame: FrameView) -> PairStatistics:
    """Measure the optical flow between two frames. Raises ConfigError for frames that are too small for DIS."""
    flow = engine.of_grey(numpy.stack([before.small_grey, frame.small_grey]))
    height, width = frame.small_grey.shape
    valid = ~flow.invalid[0]
    length = torch.hypot(*flow.forward[0])
    motion = float(length[valid].mean()) if valid.any() else 0.0
    top, _ = fastest(flow, _TOP_SHARE)
    shares = motion / math.hypot(height, width), float(valid.float().mean()), float(top) / min(height, width)
    return PairStatistics(*shares)
