"""Windows between actors and learner: bounded, and every one accounted for."""

import random
from collections import Counter, defaultdict
from typing import Protocol


class Sample(Protocol):
    """What travels: a Window or a Trajectory."""

    rollout: int
    attempt: int
    index: int
    role: str
    start: int


class WindowBuffer:
    """Samples by role. Those dispatched and those waiting together never exceed `capacity`.

    Every dispatched sample comes out exactly once: taken, or counted as cancelled.
    """

    def __init__(self, capacity: int, seed: int):
        self.capacity, self.seed = capacity, seed
        self.waiting: dict[str, dict[tuple[int, int], Sample]] = defaultdict(dict)
        self.pending: set[tuple[int, int]] = set()
        self.taken_starts: dict[str, Counter[int]] = defaultdict(Counter)
        self.counts = Counter(dispatched=0, delivered=0, taken=0, cancelled=0)

    @property
    def depth(self) -> int:
        """Samples that wait to be taken."""
        return sum(len(samples) for samples in self.waiting.values())

    def metrics(self) -> dict[str, object]:
        """Depth, counts by outcome, and where the windows started that were taken: {role: {start: windows}}."""
        starts = {role: dict(sorted(counter.items())) for role, counter in self.taken_starts.items()}
        return {"buffer/depth": self.depth, "buffer/starts": starts} | {
            f"buffer/{outcome}": count for outcome, count in self.counts.items()
        }

    def has_room(self, samples: int) -> bool:
        """Whether `samples` more may be dispatched."""
        return self.depth + len(self.pending) + samples <= self.capacity

    def expect(self, keys: list[tuple[int, int]]) -> None:
        """Note dispatched samples by (rollout, index)."""
        self.pending.update(keys)
        self.counts["dispatched"] += len(keys)

    def put(self, sample: Sample) -> None:
        """Deliver one. A sample that nobody expects, or expects no longer, is refused."""
        key = (sample.rollout, sample.index)
        if key not in self.pending:
            raise ValueError(f"window {sample.index} of rollout {sample.rollout} was not expected, or came twice")
        self.pending.remove(key)
        self.waiting[sample.role][key] = sample
        self.counts["delivered"] += 1

    def take(self, role: str, n: int) -> list[Sample] | None:
        """`n` samples of a role in random order, or None while there are fewer.

        Random, because a rollout's early windows arrive before its late ones: in order of arrival an update would see
        windows of one position only.
        """
        samples = self.waiting[role]
        if len(samples) < n:
            return None
        chosen = random.Random(f"{self.seed} {role} {self.counts['taken']}").sample(sorted(samples), n)
        self.counts["taken"] += n
        taken = [samples.pop(key) for key in chosen]
        self.taken_starts[role].update(sample.start for sample in taken)
        return taken

    def cancel(self) -> None:
        """Give up everything dispatched or waiting, and begin a new histogram of starts: a stage has ended."""
        self.counts["cancelled"] += len(self.pending) + self.depth
        self.pending.clear()
        self.waiting.clear()
        self.taken_starts.clear()
