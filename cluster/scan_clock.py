"""How long a scan still takes, by what its trials have taken in this command."""

import heapq
import time
from collections.abc import Callable, Mapping


class ScanClock:
    """Told when trials begin, are measured and end. A trial that ASHA will stop counts as whole until it does."""

    def __init__(self, left: Mapping[str, int], at_once: int, clock: Callable[[], float] = time.monotonic):
        """`left`: updates that each trial lacks, in the order they run; `at_once` of them run together."""
        self.left, self.at_once, self.clock = dict(left), at_once, clock
        self.began: dict[str, tuple[float, int]] = {}
        """Of those that run: when, and the updates that were left then."""
        self.seen_s: dict[str, float] = {}
        """When those that run were last heard of."""
        self.spent_s, self.updates = 0.0, 0
        """Of those that have ended."""

    def begins(self, name: str) -> None:
        """Its process is there, maybe once more."""
        self.began[name], self.seen_s[name] = (self.clock(), self.left[name]), self.clock()

    def measured(self, name: str, left: int) -> None:
        """It has so many updates left; more than before where it goes on from a checkpoint before its measurement."""
        self.left[name] = left
        if left >= self.began[name][1]:
            self.began[name] = (self.clock(), left)
        self.seen_s[name] = self.clock()

    def ends(self, name: str, judged: bool) -> None:
        """It has finished, being `judged` included, or was stopped or given up."""
        left = self.left.pop(name)
        if name not in self.began:
            return
        (since, before), _ = self.began.pop(name), self.seen_s.pop(name)
        if done := before if judged else before - left:
            self.spent_s += self.clock() - since
            self.updates += done

    @property
    def seconds_per_update(self) -> float | None:
        """Over all that ran, with what starting, measuring and judging took; None until one was measured."""
        running = [
            (self.seen_s[name] - since, before - self.left[name]) for name, (since, before) in self.began.items()
        ]
        spent = self.spent_s + sum(seconds for seconds, updates in running if updates)
        updates = self.updates + sum(updates for _, updates in running)
        return spent / updates if updates else None

    def left_s(self) -> float | None:
        """Until the last trial ends: those that wait follow in their order, each as soon as another has ended."""
        pace = self.seconds_per_update
        if pace is None:
            return None
        now = self.clock()
        ends = [max(0.0, self.left[name] * pace - (now - self.seen_s[name])) for name in self.began]
        ends += [0.0] * (self.at_once - len(ends))
        heapq.heapify(ends)
        for name in (name for name in self.left if name not in self.began):
            heapq.heappush(ends, heapq.heappop(ends) + self.left[name] * pace)
        return max(ends)
