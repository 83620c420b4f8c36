"""How far a student's videos have strayed from their own beginnings, place by place: what law `priority` goes by."""

from collections.abc import Iterable, Sequence

import numpy
from torch import Tensor

RATE = 0.05
"""Weight of a new measurement in the running mean of its place."""


def latent_drift(opening: Tensor, frames: Tensor) -> float:
    """Mean distance of the channels' means in `frames` [B F C H W] to those in the same videos' `opening`.

    Exposure drift, in latents: no judge, no prompt, no pixels.
    """
    return (frames.mean((1, 3, 4)) - opening.mean((1, 3, 4))).abs().mean().item()


class DriftTracker:
    """A running mean for each block of a rollout."""

    def __init__(self, state: Iterable[tuple[int, float]] = ()):
        """`state` as `state` gave it."""
        self.by_block = dict(map(tuple, state))

    def note(self, block: int, measured: float) -> None:
        """Of one dispatch."""
        before = self.by_block.setdefault(block, measured)
        self.by_block[block] = before + RATE * (measured - before)

    def of_windows(self, starts: Sequence[int], window_frames: int, block_frames: int) -> numpy.ndarray:
        """Mean over the blocks of the window at each of `starts`.

        Where nobody has been yet counts as much as the worst place that is known: it has to be looked at.
        """
        worst = max(self.by_block.values(), default=1.0)
        firsts = [start // block_frames for start in starts]
        length = window_frames // block_frames
        return numpy.array([
            numpy.mean([self.by_block.get(block, worst) for block in range(first, first + length)]) for first in firsts
        ])  # fmt: skip

    def state(self) -> list[tuple[int, float]]:
        """For a checkpoint."""
        return sorted(self.by_block.items())
