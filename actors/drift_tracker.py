"""Measure how far a student's videos drift from their own beginnings, place by place; law `priority` reads it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy
import torch
from torch import Tensor

from models.records import MadeBlock

RATE = 0.05
"""Weight of a new measurement in the running mean of its place."""


def latent_drift(first: Tensor, frames: Tensor) -> float:
    """Average the distance of channel means in `frames` [B F C H W] to those of `first`.

    Exposure drift, in units of latents: no judge, no prompt, no pixels.
    """
    return (frames.mean((1, 3, 4)) - first.mean((1, 3, 4))).abs().mean().item()


@dataclass(frozen=True)
class DriftMeter:
    """Measures each block of videos that are made together against their own first frames."""

    horizon_frames: int
    """First frames that are compared with."""
    first: list[Tensor] = field(default_factory=list)
    """These frames, block by block; at the start those of videos that are continued."""

    def measure(self, block: MadeBlock) -> float:
        """Return the block's `latent_drift`; blocks come in order."""
        if block.index * block.x0.shape[1] < self.horizon_frames:
            self.first.append(block.x0)
        return latent_drift(torch.cat(self.first, dim=1), block.x0)


class DriftTracker:
    """Keeps a running mean of drift for each block of a rollout."""

    def __init__(self, state: Iterable[tuple[int, float]] = ()):
        """Continue from `state`, as `state()` returns it."""
        self.by_block = dict(map(tuple, state))

    def note(self, block: int, measured: float) -> None:
        """Add the drift that one dispatch measured at `block`."""
        before = self.by_block.setdefault(block, measured)
        self.by_block[block] = before + RATE * (measured - before)

    def of_windows(self, starts: Sequence[int], window_frames: int, block_frames: int) -> numpy.ndarray:
        """Average drift [starts] over the blocks of the window at each start.

        A block that was never measured counts as much as the worst one, so that it is measured soon.
        """
        worst = max(self.by_block.values(), default=1.0)
        firsts = [start // block_frames for start in starts]
        length = window_frames // block_frames
        return numpy.array([
            numpy.mean([self.by_block.get(block, worst) for block in range(first, first + length)]) for first in firsts
        ])  # fmt: skip

    def state(self) -> list[tuple[int, float]]:
        """Return the means by block, for a checkpoint."""
        return sorted(self.by_block.items())
