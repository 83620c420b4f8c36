"""Compare the motion of a tracked object with the prompted speed. Positions in, per-pair numbers out.

A pair is two consecutive frames; T frames have T - 1 pairs. Standing still and jumping are both no motion, so the band
of good displacements has two ends.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.worlds.tiny_judge import Verdict
from models.worlds.tiny_prompts import SPEEDS, scene_of

SLOWEST = 0.4
"""Least share of the prompted speed at which a pair moves."""
FASTEST_EXCESS = 1.2
"""Most pixels per frame above the prompted speed at which a pair moves; farther is a jump."""
FROZEN = 0.25
"""Share of the prompted speed below which a pair is frozen."""


def displacement(position: Tensor) -> Tensor:
    """Compute the straight distance [B T-1] between consecutive positions [B T 2], in their unit per frame."""
    return torch.linalg.vector_norm(position.diff(dim=1), dim=-1)


def moves(distance: Tensor, speed: Tensor) -> Tensor:
    """Test [B T-1] whether `distance` [B T-1] fits an object that moves at `speed` [B], both in pixels per frame."""
    speed = speed[:, None]
    return (distance >= SLOWEST * speed) & (distance <= speed + FASTEST_EXCESS)


def frozen(distance: Tensor, speed: Tensor) -> Tensor:
    """Test [B T-1] whether `distance` [B T-1] is below FROZEN of the prompted `speed` [B]."""
    return distance < FROZEN * speed[:, None]


def prompted_speed(prompts: Sequence[str]) -> Tensor:
    """Look up the speeds [B], in pixels per frame, of prompts of the tiny world."""
    return torch.tensor([SPEEDS[scene_of(prompt).speed] for prompt in prompts])


def moving_pairs(verdict: Verdict, prompts: Sequence[str]) -> Tensor:
    """Test [B T-1] whether a pair is valid in both frames and moves at about the prompted speed."""
    moved = moves(displacement(verdict.position), prompted_speed(prompts))
    return moved & verdict.valid[:, :-1] & verdict.valid[:, 1:]
