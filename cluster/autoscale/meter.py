"""Who waits for whom, and how long a window takes learner and actors: sums that the pool's size is decided by."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.autoscale.controller import Measurements

_REMEMBERED = 1000
_DISPATCHES = 4
"""Dispatches that an actor's seconds per window are taken over, at least: their last windows end where chance puts
them."""
WINDOWS = ("Window", "Group", "Trajectory")


@dataclass
class _Made:
    """What an actor does with one dispatch."""

    since: float | None
    """None until it makes its first block: what a process does before (loading, compiling) it does once."""
    windows: int = 0


class Meter:
    """Of the coordinator's event loop. Levels (who waits, who is there) are summed over time, events by number."""

    def __init__(self, span_s: float, clock: Callable[[], float] = time.monotonic, scorers: int = 1):
        """`span_s`: over which to measure; `clock` gives seconds; `scorers`: reward processes."""
        self.span_s, self.clock, self.scorers = span_s, clock, scorers
        self.waiting = 0
        """Learner ranks that wait for windows."""
        self.idle = 0
        """Actors that wait for room."""
        self.scoring = 0
        """Groups that are being scored, or wait for a reward process."""
        self.held: dict[int, frozenset[str]] = {}
        """By slot whose process has a node: its GPUs. Where some share a GPU, it is held once."""
        self.cost = 0
        """GPUs that are held; a process without one counts as one."""
        self.running: set[int] = set()
        self.replaced: set[int] = set()
        """Slots whose process was lost and whose next one is not there yet."""
        self.working: dict[int, _Made] = {}
        self.sums: Counter[str] = Counter()
        self.advanced_s = clock()
        self.begin(1)

    def begin(self, windows_per_update: int) -> None:
        """A stage begins: what was measured of another says nothing about it."""
        self._advance()
        self.windows_per_update, self.left_to_warm, self.warm = windows_per_update, windows_per_update, False
        self.running, self.replaced, self.working = set(), set(), {}
        self.began, self.history = Counter(self.sums), self._fresh()

    def _fresh(self) -> deque[Counter[str]]:
        return deque([Counter(self.sums)], maxlen=_REMEMBERED)

    # -- what happens ---------------------------------------------------------------------------------------------

    @contextmanager
    def learner_waits(self) -> Iterator[None]:
        """Time a block in which a rank waits for windows; several that wait together count once."""
        with self._counted("waiting"):
            yield

    @contextmanager
    def finds_no_room(self) -> Iterator[None]:
        """Time a block in which an actor waits for room in the buffer."""
        with self._counted("idle"):
            yield

    @contextmanager
    def scores(self) -> Iterator[None]:
        """Time a block in which a group is scored, the wait for a reward process included."""
        with self._counted("scoring"):
            yield

    @contextmanager
    def _counted(self, who: str) -> Iterator[None]:
        self._advance()
        setattr(self, who, getattr(self, who) + 1)
        try:
            yield
        finally:
            self._advance()
            setattr(self, who, getattr(self, who) - 1)

    def taken(self, windows: int) -> None:
        """The learner gets windows. With its second update it is warm: what it loads and compiles, it does once."""
        if windows and not self.warm and self.left_to_warm <= 0:
            self.warm = True
            self._advance()
            self.history = self._fresh()
        self.left_to_warm -= windows
        self.sums["taken"] += windows

    def placed(self, slot: int, gpus: Collection[str]) -> None:
        """The process of a slot has a node: it is paid for, whether it starts or works. `gpus`: named like no other."""
        self._advance()
        self.held[slot] = frozenset(gpus)
        self._count_cost()

    def _count_cost(self) -> None:
        self.cost = len(frozenset().union(*self.held.values())) + sum(not gpus for gpus in self.held.values())

    def there(self, slot: int) -> None:
        """The process of a slot can work."""
        self._advance()
        self.running.add(slot)
        self.replaced.discard(slot)

    def gone(self, slot: int, replaced: bool) -> None:
        """The process of a slot is no more; another was asked for if it is `replaced`."""
        self.stops(slot)
        self.held.pop(slot, None)
        self._count_cost()
        self.replaced.discard(slot)
        if replaced:
            self.replaced.add(slot)

    def stops(self, slot: int) -> None:
        """The process of a slot works no more until it is `there` again; it keeps its node."""
        self._advance()
        self.running.discard(slot)

    def begins(self, slot: int, windows: int, warm: bool) -> None:
        """An actor is given a dispatch of so many windows; `warm` if its process has made something before."""
        self.sums["dispatches"] += 1
        self.sums["asked"] += windows
        self.working[slot] = _Made(self.clock() if warm else None)

    def delivers(self, slot: int, kind: str) -> None:
        """An actor has made something."""
        made = self.working[slot]
        if made.since is None:
            made.since = self.clock()
        made.windows += kind in WINDOWS

    def ends(self, slot: int) -> None:
        """An actor is done with its dispatch, or lost."""
        made = self.working.pop(slot)
        if made.since is not None:
            self.sums["ended"] += 1
            self.sums["made"] += made.windows
            self.sums["making"] += self.clock() - made.since

    def _advance(self) -> None:
        now = self.clock()
        seconds, self.advanced_s = now - self.advanced_s, now
        self.sums["elapsed"] += seconds
        self.sums["waited"] += seconds * (self.waiting > 0)
        self.sums["idle"] += seconds * self.idle
        self.sums["scoring"] += seconds * min(self.scoring, self.scorers)
        self.sums["held"] += seconds * self.cost
        self.sums["running"] += seconds * len(self.running)
        self.sums["replacing"] += seconds * len(self.replaced)

    # -- what it amounts to ---------------------------------------------------------------------------------------

    @property
    def gpu_hours(self) -> float:
        """Hours of whole GPUs, or of processes without any, that were held since this was made."""
        self._advance()
        return self.sums["held"] / 3600

    def measure(self, size: int, capacity: int, gpu_hours: float) -> Measurements:
        """The pool and the learner over the last `span_s` seconds, and further back where little has happened.

        `size` actors are asked for, the buffer holds `capacity` windows, and `gpu_hours` were spent.
        """
        self._advance()
        self.history.append(Counter(self.sums))
        stage = self.sums - self.began
        lately = self._since(elapsed=self.span_s)
        elapsed = max(lately["elapsed"], 1e-9)
        learnt = self._since(elapsed=self.span_s, taken=self.windows_per_update)
        made = self._since(elapsed=self.span_s, ended=_DISPATCHES)
        busy_s = learnt["elapsed"] - learnt["waited"]
        return Measurements(
            size=size,
            starting=max(0, size - len(self.running)),
            running=lately["running"] / elapsed,
            idle=lately["idle"] / elapsed,
            replacing=lately["replacing"] / elapsed,
            scoring=lately["scoring"] / elapsed / self.scorers,
            waiting_share=lately["waited"] / elapsed,
            windows_per_s=learnt["taken"] / max(learnt["elapsed"], 1e-9),
            actor_s=made["making"] / made["made"] if made["made"] else None,
            learner_s=busy_s / learnt["taken"] if learnt["taken"] and busy_s > 0 else None,
            learnt_s=learnt["elapsed"],
            dispatch_s=made["making"] / made["ended"] if made["ended"] else 0.0,
            fits=max(1, int(capacity * stage["dispatches"] // max(stage["asked"], 1))),
            gpu_hours=gpu_hours,
            whole=lately["elapsed"] >= self.span_s,
            warm=self.warm,
        )

    def _since(self, **least: float) -> Counter[str]:
        """What was added since the latest look that was so long ago; since the first one if none was."""
        now = self.history[-1]
        for then in reversed(self.history):
            if all(now[name] - then[name] >= amount for name, amount in least.items()):
                break
        else:
            then = self.history[0]
        return Counter({name: now[name] - then[name] for name in now})
