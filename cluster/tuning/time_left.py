"""How long a scan still takes, by what its trials have taken in this command."""

import heapq
import time
from collections.abc import Callable, Mapping, Sequence

Stretch = tuple[float, int]
"""Seconds, and the updates that were made in them."""


class ScanClock:
    """Told when trials begin, are measured and end. A trial that ASHA will stop counts as whole until it does."""

    def __init__(self, left: Mapping[str, int], at_once: int, clock: Callable[[], float] = time.monotonic):
        """`left`: updates that each trial lacks, in the order they run; `at_once` of them run together."""
        self.left, self.at_once, self.clock = dict(left), at_once, clock
        self.seen_s: dict[str, float] = {}
        """When those that run were last heard of."""
        self.measured_once: set[str] = set()
        """Those that run and have been measured since they began."""
        self.starts: list[Stretch] = []
        """From the beginning to the first measurement."""
        self.between: list[Stretch] = []
        """From one measurement to the next."""
        self.finishes: list[Stretch] = []
        """From the last measurement to the end, being judged included."""

    def begins(self, name: str) -> None:
        """Its process is asked to begin, maybe once more."""
        self.seen_s[name] = self.clock()
        self.measured_once.discard(name)

    def measured(self, name: str, left: int) -> None:
        """It has so many updates left; more than before where it goes on from a checkpoint before its measurement."""
        if left < self.left[name]:
            stretches = self.between if name in self.measured_once else self.starts
            stretches.append((self.clock() - self.seen_s[name], self.left[name] - left))
        self.left[name], self.seen_s[name] = left, self.clock()
        self.measured_once.add(name)

    def ends(self, name: str, judged: bool) -> None:
        """It has made all updates and was `judged`, or it was stopped or given up."""
        left, seen_s = self.left.pop(name), self.seen_s.pop(name, None)
        if judged and seen_s is not None:
            self.finishes.append((self.clock() - seen_s, left))

    def left_s(self) -> float | None:
        """Until the last trial ends, None until one was measured.

        Those that wait follow in their order, each as soon as another has ended.
        """
        known = self.between or self.starts
        updates = sum(updates for _, updates in known)
        if not updates:
            return None
        pace = sum(seconds for seconds, _ in known) / updates
        start_s, end_s, now = _beyond(self.starts, pace), _beyond(self.finishes, pace), self.clock()
        free = []
        for name, seen_s in self.seen_s.items():
            coming_s = end_s if name in self.measured_once else start_s + end_s
            free.append(max(0.0, self.left[name] * pace + coming_s - (now - seen_s)))
        free += [0.0] * (self.at_once - len(free))
        heapq.heapify(free)
        for name in (name for name in self.left if name not in self.seen_s):
            heapq.heappush(free, heapq.heappop(free) + start_s + self.left[name] * pace + end_s)
        return max(free)


def _beyond(stretches: Sequence[Stretch], pace: float) -> float:
    """Seconds that one of them takes on average beside its updates."""
    return sum(max(0.0, seconds - updates * pace) for seconds, updates in stretches) / max(1, len(stretches))
