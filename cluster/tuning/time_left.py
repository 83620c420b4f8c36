"""Estimate the time left of a scan, from the times of its trials in this command."""

import heapq
import time
from collections.abc import Callable, Mapping

Stretch = tuple[float, int]
"""Seconds, and the updates that were made in them."""


class ScanClock:
    """Estimates the time left from the times at which trials begin, are measured and end.

    A trial counts as whole until ASHA stops it.
    """

    def __init__(self, left: Mapping[str, int], at_once: int, clock: Callable[[], float] = time.monotonic):
        """Start the clock; `left` holds the remaining updates by trial in running order, `at_once` run together."""
        self.left, self.at_once, self.clock = dict(left), at_once, clock
        self.seen_s: dict[str, float] = {}
        """Time of the last event of each running trial."""
        self.measured_once: set[str] = set()
        """Running trials with a measurement since they began."""
        self.starts: list[Stretch] = []
        """Times from a trial's beginning to its first measurement."""
        self.between: list[Stretch] = []
        """Times from one measurement to the next."""
        self.finishes: list[Stretch] = []
        """Times from the last measurement to the end, with the final scores."""

    def begins(self, name: str) -> None:
        """Record that a trial begins, or restarts."""
        self.seen_s[name] = self.clock()
        self.measured_once.discard(name)

    def measured(self, name: str, left: int) -> None:
        """Note the updates left; more than before where a trial resumes from an earlier checkpoint."""
        if left < self.left[name]:
            stretches = self.between if name in self.measured_once else self.starts
            stretches.append((self.clock() - self.seen_s[name], self.left[name] - left))
        self.left[name], self.seen_s[name] = left, self.clock()
        self.measured_once.add(name)

    def ends(self, name: str, judged: bool) -> None:
        """Note the end of a trial: `judged` after all updates, or stopped or given up."""
        left, seen_s = self.left.pop(name), self.seen_s.pop(name, None)
        if judged and seen_s is not None:
            self.finishes.append((self.clock() - seen_s, left))

    def left_s(self) -> float | None:
        """Estimate the seconds until the last trial ends; None before the first measurement.

        Waiting trials follow in their order, each as soon as another has ended.
        """
        known = self.between or self.starts
        updates = sum(updates for _, updates in known)
        if not updates:
            return None
        pace = sum(seconds for seconds, _ in known) / updates
        start_s, end_s = (  # average seconds of a stretch outside its updates
            sum(max(0.0, seconds - updates * pace) for seconds, updates in stretches) / max(1, len(stretches))
            for stretches in (self.starts, self.finishes)
        )
        now = self.clock()
        free = []
        for name, seen_s in self.seen_s.items():
            coming_s = end_s if name in self.measured_once else start_s + end_s
            free.append(max(0.0, self.left[name] * pace + coming_s - (now - seen_s)))
        free += [0.0] * (self.at_once - len(free))
        heapq.heapify(free)
        for name in (name for name in self.left if name not in self.seen_s):
            heapq.heappush(free, heapq.heappop(free) + start_s + self.left[name] * pace + end_s)
        return max(free)
