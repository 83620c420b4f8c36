"""Compute the paper's five columns (Self-Forcing++, Tab. 1) by their counterparts in the tiny world, video by video.

Each is a share or a mean of [0, 1], times 100, over all frames up to a horizon:

- text alignment: frames whose sprite has the prompted colour and shape
- temporal quality: (subject + background + smoothness + 0.5 dynamic) / 3.5, as the paper composes VBench's dimensions;
  subject and background compare a frame with the one before and the first one, as VBench's consistencies do
- dynamic degree: pairs of frames that move at about the prompted speed
- visual stability: a score of 0 to 5 for exposure by the worst horizon's mean distance of the wall's light to the first
  horizon's, times 20
- framewise quality: frames that a rendering of the prompted scene explains
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.worlds.tiny_judge import judge
from rewards.object_motion import FASTEST_EXCESS, displacement, moving_pairs, prompted_speed

COLUMNS = {
    "text_alignment": "text alignment",
    "temporal_quality": "temporal quality",
    "dynamic_degree": "dynamic degree",
    "visual_stability": "visual stability",
    "framewise_quality": "framewise quality",
}
_LIGHT_SCALE = 0.25
"""Difference of the wall's light, of 1, at which two frames have nothing in common."""
_STABILITY_CUTS = (0.02, 0.05, 0.10, 0.20, 0.35)
"""Distances of light below which exposure scores 5, 4, 3, 2 and 1."""


def tiny_columns(video: Tensor, prompts: Sequence[str], horizon_frames: int, horizons: Sequence[int]) -> list[dict]:
    """Return for each of `horizons` the columns, by name, as lists with a number per video.

    `video` is [B T 3 H W] in [0, 1] with at least max(horizons) * horizon_frames frames.
    """
    verdict = judge(video, prompts)
    colour_shape = verdict.colour * 100 + verdict.shape
    light = verdict.light[..., 0]
    moved, speed = displacement(verdict.position), prompted_speed(prompts)
    smooth = moved <= speed[:, None] + FASTEST_EXCESS
    moving = moving_pairs(verdict, prompts)
    made = []
    for horizon in horizons:
        frames = horizon * horizon_frames
        subject = _consistency((colour_shape[:, :frames, None] == _before_and_first(colour_shape[:, :frames])).float())
        distance = (light[:, :frames, None] - _before_and_first(light[:, :frames])).abs()
        background = _consistency((1 - distance / _LIGHT_SCALE).clamp(min=0))
        smoothness, dynamic = (pairs[:, : frames - 1].float().mean(1) for pairs in (smooth, moving))
        columns = {
            "text_alignment": (verdict.colour_right & verdict.shape_right)[:, :frames].float().mean(1),
            "temporal_quality": (subject + background + smoothness + 0.5 * dynamic) / 3.5,
            "dynamic_degree": dynamic,
            "visual_stability": exposure_score(light[:, :frames], horizon_frames) / 5,
            "framewise_quality": verdict.valid[:, :frames].float().mean(1),
        }
        made.append({name: (100 * values.double()).tolist() for name, values in columns.items()})
    return made


def exposure_score(light: Tensor, horizon_frames: int) -> Tensor:
    """Score the exposure [B] from 0 to 5 of videos whose wall has the light `light` [B T]; NaN scores 0."""
    first = light[:, :horizon_frames].mean(1, keepdim=True)
    horizons = (light - first).abs().unflatten(1, (-1, horizon_frames)).mean(2)
    worst = horizons.nan_to_num(torch.inf).max(1).values
    return (worst[:, None] < torch.tensor(_STABILITY_CUTS)).sum(1).float()


def _before_and_first(values: Tensor) -> Tensor:
    """Return [B T 2]: the frame before each, and the first one."""
    before = torch.cat([values[:, :1], values[:, :-1]], 1)
    return torch.stack([before, values[:, :1].expand_as(values)], 2)


def _consistency(similarity: Tensor) -> Tensor:
    """Average similarity [B T 2] to the frame before and the first one, from the second frame on."""
    return similarity[:, 1:].mean((1, 2))
