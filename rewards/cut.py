"""Detect cuts: a pair of frames of which the second cannot be made by moving the first."""

import torch
from torch import Tensor
from torch.nn import functional

from rewards.flow.optical_flow import Flow, displaced, luma
from rewards.reward import Clip, ClipReward

_BINS = 16
_LEAST_CONTRAST = 0.02
"""Added to contrast, so that noise on a flat frame is no cut."""


def residual(pixels: Tensor, flow: Flow) -> Tensor:
    """Measure the residual of flow [T-1]: mean |I_t+1(x + F) - I_t| in luma over I_t's standard deviation.

    About 1.1 for two unrelated frames. Pixels [T 3 H W], flow at any size.
    """
    level = functional.interpolate(luma(pixels)[:, None], flow.forward.shape[-2:], mode="bilinear", align_corners=False)
    unexplained = (displaced(level[1:], flow.forward) - level[:-1]).abs().mean((1, 2, 3))
    return unexplained / (level[:-1].std((1, 2, 3)) + _LEAST_CONTRAST)


def colour_jump(pixels: Tensor) -> Tensor:
    """Measure the share of values [T-1] that change their bin of 16 between frames, averaged over channels."""
    frames, channels = pixels.shape[:2]
    bins = (pixels * _BINS).long().clamp(0, _BINS - 1).flatten(0, 1).flatten(1)
    histogram = torch.arange(len(bins), device=bins.device)[:, None] * _BINS
    counts = torch.bincount((bins + histogram).flatten(), minlength=len(bins) * _BINS).to(pixels)
    shares = counts.view(frames, channels, _BINS) / bins.shape[1]
    return shares.diff(dim=0).abs().sum(2).mean(1) / 2


def cut_score(evidence: Tensor, reference: Tensor, scale: Tensor) -> Tensor:
    """Score the worst pair by exp(-|d|^2): d is `evidence` [T-1 N] above the median pair of `reference` [R N]."""
    excess = (evidence - reference.median(0).values).clamp(min=0) / scale
    return torch.exp(-excess.square().sum(1).max())


class NoCut(ClipReward):
    """Scores 1 where no pair of frames changes more than pairs of the reference do, near 0 with one cut."""

    needs = frozenset({"pixels", "flow", "reference"})

    def score(self, clip: Clip) -> Tensor:
        if clip.reference is None or len(clip.pixels) < 2 or len(clip.reference.pixels) < 2:
            return torch.tensor(torch.nan)
        scale = torch.tensor([self.config.residual_scale, self.config.histogram_scale]).to(clip.pixels)
        return cut_score(clip.once(_evidence), clip.reference.once(_evidence), scale).cpu()


def _evidence(clip: Clip) -> Tensor:
    assert clip.flow is not None, "the scorer computes the flow of clips and references"
    return torch.stack([residual(clip.pixels, clip.flow), colour_jump(clip.pixels)], dim=1)
