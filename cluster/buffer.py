"""Windows between actors and learner: bounded, in an order fixed at dispatch, and every one accounted for."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Protocol

from models.rollout import Rollout


class Sample(Protocol):
    """What travels: a Window or a Trajectory."""

    rollout: int
    attempt: int
    index: int
    role: str
    start: int


class WindowBuffer:
    """Samples by role. Those dispatched and those waiting together never exceed `capacity`.

    The order in which samples leave is drawn when their rollouts are dispatched: dispatch by dispatch, shuffled inside
    each. In order of arrival an update would see windows of one position only, because a rollout's early windows come
    first; and a window that waits cannot be passed over for ever. Every dispatched sample comes out exactly once:
    taken, or counted as cancelled.
    """

    def __init__(self, capacity: int, seed: int):
        self.capacity, self.seed = capacity, seed
        self.order: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.waiting: dict[tuple[int, int], Sample] = {}
        self.pending: set[tuple[int, int]] = set()
        self.taken_starts: dict[str, Counter[int]] = defaultdict(Counter)
        self.counts = Counter(dispatched=0, delivered=0, taken=0, cancelled=0)

    @property
    def depth(self) -> int:
        """Samples that wait to be taken."""
        return len(self.waiting)

    def has_room(self, rollouts: Sequence[Rollout]) -> bool:
        """Whether all windows of `rollouts` may be dispatched."""
        return self.depth + len(self.pending) + sum(len(rollout.windows) for rollout in rollouts) <= self.capacity

    def expect(self, rollouts: Sequence[Rollout]) -> None:
        """Note the windows of rollouts that are dispatched together. Raises ValueError if one is expected already."""
        plans = [((r.id, i), plan.role) for r in rollouts for i, plan in enumerate(r.windows)]
        keys = {key for key, _ in plans}
        if keys & (self.pending | self.waiting.keys()):
            raise ValueError(f"rollouts {[rollout.id for rollout in rollouts]} were dispatched twice")
        for key, role in random.Random(f"{self.seed} {rollouts[0].id}").sample(plans, len(plans)):
            self.order[role].append(key)
        self.pending |= keys
        self.counts["dispatched"] += len(keys)

    def put(self, sample: Sample) -> None:
        """Deliver one. A sample that nobody expects, or expects no longer, is refused."""
        key = (sample.rollout, sample.index)
        if key not in self.pending:
            raise ValueError(f"window {sample.index} of rollout {sample.rollout} was not expected, or came twice")
        self.pending.remove(key)
        self.waiting[key] = sample
        self.counts["delivered"] += 1

    def take(self, role: str, n: int) -> list[Sample] | None:
        """The next `n` samples of a role, or None while one of them is still being made."""
        following = self.order[role][:n]
        if len(following) < n or any(key not in self.waiting for key in following):
            return None
        del self.order[role][:n]
        taken = [self.waiting.pop(key) for key in following]
        self.taken_starts[role].update(sample.start for sample in taken)
        self.counts["taken"] += n
        return taken

    def cancel(self) -> None:
        """Give up everything dispatched or waiting, and begin a new histogram of starts: a stage has ended."""
        self.counts["cancelled"] += len(self.pending) + self.depth
        self.pending.clear()
        self.waiting.clear()
        self.order.clear()
        self.taken_starts.clear()

    def metrics(self) -> dict[str, object]:
        """Depth, counts by outcome, and where the windows started that were taken: {role: {start: windows}}."""
        starts = {role: dict(sorted(counter.items())) for role, counter in self.taken_starts.items()}
        return {"buffer/depth": self.depth, "buffer/pending": len(self.pending), "buffer/starts": starts} | {
            f"buffer/{outcome}": count for outcome, count in self.counts.items()
        }
