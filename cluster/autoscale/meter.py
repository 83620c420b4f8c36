"""Sum the time that learner and actors work and wait, for the decision about the pool's size."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from cluster.autoscale.controller import Measurements

_REMEMBERED = 1000
_DISPATCHES = 4
"""Smallest number of dispatches for an actor's seconds per window: the end of a dispatch varies by chance."""


class Meter:
    """Integrates levels over time and counts events. For one event loop.

    Levels: `running` processes that supply the stage, `replacing` lost ones whose successors are not up yet, `busy`
    and `starting` actors, `idle` actors that find no room in the buffer, `waiting` learner ranks, `scoring` groups, and
    `held` GPUs (a process without one counts as one), from the moment at which a process has a node.
    """

    def __init__(self, span_s: float, clock: Callable[[], float] = time.monotonic, scorers: int = 1):
        """Measure over the last `span_s` seconds of `clock`; `scorers` is the number of reward processes."""
        self.span_s, self.clock, self.scorers = span_s, clock, scorers
        self.levels: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.advanced_s = clock()
        self.begin(1)

    def begin(self, windows_per_update: int) -> None:
        """Begin a stage: measurements of another say nothing about it."""
        self.windows_per_update, self.left_to_warm, self.warm = windows_per_update, windows_per_update, False
        self.began = self.totals()
        self.history = deque([self.began], maxlen=_REMEMBERED)

    # -- events ---------------------------------------------------------------------------------------------------

    def change(self, by: Mapping[str, int]) -> None:
        """Add to levels."""
        self.totals()
        self.levels.update(by)

    @contextmanager
    def time(self, level: str) -> Iterator[None]:
        """Raise a level by one inside a block; of `waiting` ranks, several together count once."""
        self.change({level: 1})
        try:
            yield
        finally:
            self.change({level: -1})

    def take(self, windows: int) -> None:
        """Count windows that the learner takes, or, below 0, returns.

        From its second update on it is warm: it has loaded and compiled.
        """
        if windows > 0 and not self.warm and self.left_to_warm <= 0:
            self.warm = True
            self.history = deque([self.totals()], maxlen=_REMEMBERED)
        self.left_to_warm -= windows
        self.sums["taken"] += windows

    def dispatch(self, windows: int) -> None:
        """Count a dispatch of `windows` windows that an actor starts."""
        self.sums["dispatches"] += 1
        self.sums["asked"] += windows

    def end(self, windows: int, seconds: float) -> None:
        """Count a finished dispatch: its windows and seconds."""
        self.sums["ended"] += 1
        self.sums["made"] += windows
        self.sums["making"] += seconds

    # -- measurements ---------------------------------------------------------------------------------------------

    def totals(self) -> Counter[str]:
        """Integrate the levels up to now; returns all sums, in seconds and events."""
        now = self.clock()
        seconds, self.advanced_s = now - self.advanced_s, now
        self.sums["elapsed"] += seconds
        self.sums["waited"] += seconds * (self.levels["waiting"] > 0)
        self.sums["scoring"] += seconds * min(self.levels["scoring"], self.scorers)
        for level in ("idle", "held", "running", "replacing", "busy", "starting"):
            self.sums[level] += seconds * self.levels[level]
        return Counter(self.sums)

    def measure(self, size: int, capacity: int, gpu_hours: float) -> Measurements:
        """Measure pool and learner over the last `span_s` seconds, and further back where little has happened.

        `size` actors are requested, the buffer holds `capacity` windows, and `gpu_hours` were spent.
        """
        self.history.append(self.totals())
        stage = self.sums - self.began
        lately = self._since(elapsed=self.span_s)
        elapsed = max(lately["elapsed"], 1e-9)
        learnt = self._since(elapsed=self.span_s, taken=self.windows_per_update)
        dispatched = self._since(elapsed=self.span_s, ended=_DISPATCHES)
        busy_s = learnt["elapsed"] - learnt["waited"]
        return Measurements(
            size=size,
            starting=max(0, size - self.levels["running"]),
            running=lately["running"] / elapsed,
            idle=lately["idle"] / elapsed,
            replacing=lately["replacing"] / elapsed,
            scoring=lately["scoring"] / elapsed / self.scorers,
            waiting_share=lately["waited"] / elapsed,
            windows_per_s=learnt["taken"] / max(learnt["elapsed"], 1e-9),
            actor_s=dispatched["making"] / dispatched["made"] if dispatched["made"] else None,
            learner_s=busy_s / learnt["taken"] if learnt["taken"] and busy_s > 0 else None,
            learnt_s=learnt["elapsed"],
            dispatch_s=dispatched["making"] / dispatched["ended"] if dispatched["ended"] else 0.0,
            fits=max(1, int(capacity * stage["dispatches"] // max(stage["asked"], 1))),
            gpu_hours=gpu_hours,
            whole=lately["elapsed"] >= self.span_s,
            warm=self.warm,
        )

    def _since(self, **least: float) -> Counter[str]:
        """Return the increase since the latest entry that is old enough, or since the first one."""
        now = self.history[-1]
        for then in reversed(self.history):
            if all(now[name] - then[name] >= amount for name, amount in least.items()):
                break
        else:
            then = self.history[0]
        return Counter({name: now[name] - then[name] for name in now})
