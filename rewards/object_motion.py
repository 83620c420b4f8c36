"""Motion of a tracked object against the speed it was asked to have. Positions in, per-pair numbers out.

A pair is two consecutive frames; T frames have T - 1 pairs. Standing still and jumping about both fail to be
motion, so the band of good displacements has two ends.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.worlds.tiny_judge import Verdict
from models.worlds.tiny_world import SPEEDS, scene_of

SLOWEST = 0.4
"""A pair moves from this share of the prompted speed upwards."""
FASTEST_EXCESS = 1.2
"""A pair moves up to this many pixels per frame beyond the prompted speed; farther is a jump."""
FROZEN = 0.25
"""A pair that covers less than this share of the prompted speed is frozen."""


def displacement(position: Tensor) -> Tensor:
    """Straight distance [B T-1] between consecutive positions [B T 2], in their unit per frame."""
    return torch.linalg.vector_norm(position.diff(dim=1), dim=-1)


def moves(distance: Tensor, speed: Tensor) -> Tensor:
    """[B T-1] bool: `distance` [B T-1] fits something that moves at `speed` [B], both in pixels per frame."""
    speed = speed[:, None]
    return (distance >= SLOWEST * speed) & (distance <= speed + FASTEST_EXCESS)


def frozen(distance: Tensor, speed: Tensor) -> Tensor:
    """[B T-1] bool: `distance` [B T-1] is hardly any, for something prompted to move at `speed` [B]."""
    return distance < FROZEN * speed[:, None]


def prompted_speed(prompts: Sequence[str]) -> Tensor:
    """[B], pixels per frame, of prompts of the tiny world."""
    return torch.tensor([SPEEDS[scene_of(prompt).speed] for prompt in prompts])


def moving_pairs(verdict: Verdict, prompts: Sequence[str]) -> Tensor:
    """[B T-1] bool: valid in both frames, and moved at about the prompted speed."""
    moved = moves(displacement(verdict.position), prompted_speed(prompts))
    return moved & verdict.valid[:, :-1] & verdict.valid[:, 1:]
