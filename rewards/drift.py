"""Compare exposure and sharpness with those of the same prompt's first seconds. Optical flow sees neither.

A deviation d, in units of the scale that a key gives, scores exp(-d^2): 1 at no drift, flat where it is small.
"""

import torch
from torch import Tensor
from torch.nn import functional

from rewards.flow.optical_flow import luma
from rewards.reward import Clip, ClipReward

_CLIPPED = 1 / 255
"""Distance to black or white below which a value counts as clipped."""
_LEAST_CONTRAST = 0.02
_LEAST_ENERGY = 1e-4
"""Added before logarithms: below these a frame is flat, and how flat does not matter."""


def exposure_drift(video: Tensor, horizon_frames: int) -> Tensor:
    """Measure the distance [B T] of each frame's mean pixel value to the mean over its video's first `horizon_frames`.

    `video` is [B T C H W], the distance is in its unit. Each video is its own reference: the prompt does not say how
    bright it should be. Up and down count alike.
    """
    level = video.mean((2, 3, 4))
    return (level - level[:, :horizon_frames].mean(1, keepdim=True)).abs()


def exposure_of(clip: Clip) -> Tensor:
    """Measure mean luma, log contrast (95th less 5th percentile) and clipped share [T 3] of a clip's frames."""
    pixels = clip.pixels
    level = luma(pixels).flatten(1)
    low, high = (level.kthvalue(1 + round(share * (level.shape[1] - 1)), dim=1).values for share in (0.05, 0.95))
    clipped = ((pixels <= _CLIPPED) | (pixels >= 1 - _CLIPPED)).flatten(1).to(level).mean(1)
    return torch.stack([level.mean(1), (high - low + _LEAST_CONTRAST).log(), clipped], dim=1)


def sharpness_of(clip: Clip) -> Tensor:
    """Measure log Tenengrad [T 1] of a clip's frames: the log of the mean squared Sobel gradient of luma."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(clip.pixels) / 8
    gradient = functional.conv2d(luma(clip.pixels)[:, None], torch.stack([across, across.T])[:, None])
    return (gradient.square().sum(1).mean((1, 2)) + _LEAST_ENERGY).log()[:, None]


def drift_score(statistics: Tensor, reference: Tensor, scale: Tensor) -> Tensor:
    """Average exp(-|d|^2) over frames: d is `statistics` [T N] less the mean of `reference` [R N], over `scale`."""
    deviation = (statistics - reference.mean(0)) / scale
    return torch.exp(-deviation.square().sum(1)).mean()


class ExposureDrift(ClipReward):
    """Scores 1 where brightness, contrast and clipping of a clip are those of its reference."""

    needs = frozenset({"pixels", "reference"})
    statistics = staticmethod(exposure_of)
    scales = ("exposure_scale", "contrast_scale", "clipped_scale")

    def score(self, clip: Clip) -> Tensor:
        if clip.reference is None or len(clip.pixels) < 2:
            return torch.tensor(torch.nan)
        statistics, reference = clip.once(self.statistics), clip.reference.once(self.statistics)
        scale = torch.tensor([getattr(self.config, name) for name in self.scales]).to(clip.pixels)
        return drift_score(statistics, reference, scale).cpu()


class SharpnessDrift(ExposureDrift):
    """Scores 1 where a clip is as sharp as its reference: neither blurred nor noisy."""

    statistics = staticmethod(sharpness_of)
    scales = ("sharpness_scale",)
