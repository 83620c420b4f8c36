"""Describe the videos that one actor makes together, and their continuation by another actor."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cluster.supply.buffer import WindowBuffer
from cluster.supply.wire import Header
from models.records import GroupPlan, Rollout


@dataclass
class Dispatch:
    """Holds the videos that one actor makes together, and the blocks streamed so far."""

    rollouts: list[Rollout]
    made: deque[Header] = field(default_factory=deque)
    """Last blocks streamed, as many as a window can need."""
    first: list[Header] = field(default_factory=list)
    """The first blocks of the videos, one horizon: groups are compared with them (stage grpo), and later blocks (law
    priority)."""
    lost: int = 0
    """Number of actors lost in a row without a block in between."""

    def missing(self, buffer: WindowBuffer) -> tuple[list[int], list[Rollout]]:
        """Return rows with windows that `buffer` still expects, and their rollouts with these windows only."""
        rows, missing = [], []
        for row, rollout in enumerate(self.rollouts):
            plans = tuple(p for p in rollout.windows if buffer.expects(rollout.id, p.index, rollout.attempt))
            if plans:
                rows.append(row)
                missing.append(replace(rollout, windows=plans))
        return rows, missing

    def continued(
        self, rows: Sequence[int], missing: list[Rollout], block_frames: int, window_frames: int
    ) -> "Dispatch | None":
        """Continue `missing` (with its `rows`) from the blocks that were streamed; None without any.

        A block that ends a missing window is made again, and so is one behind a missing fork: actors yield windows at
        their last block, and fork where they stand.
        """
        to_last_block = window_frames - block_frames
        plans = [plan for rollout in missing for plan in rollout.windows]
        end = min(p.start + (0 if isinstance(p, GroupPlan) else to_last_block) for p in plans) // block_frames
        blocks = deque(block.select(rows) for block in self.made if block.index < end)
        if not blocks:
            return None
        return Dispatch(missing, blocks, [block.select(rows) for block in self.first], self.lost + 1)
