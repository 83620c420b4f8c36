"""Who is busy and who waits: what the pool did, as numbers."""

import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cluster.pool.rollout_process import Delivery
from cluster.supply.wire import Parcel
from cluster.weights.version import WeightsVersion

_BLOCKS_JUDGED = 5
"""Blocks over which an actor's speed is taken: a median, so that one hiccup is none."""

IDLE, STARTING, BUSY = "idle", "starting", "busy"


class Workload:
    """Of the rollout pool, over the time since it was last asked."""

    def __init__(self, slots: Sequence[int], clock: Callable[[], float] = time.monotonic):
        """`slots` may change while the pool runs; `clock` gives seconds."""
        self.slots, self.clock = slots, clock
        self.made_s: defaultdict[int, deque[float]] = defaultdict(partial(deque, maxlen=_BLOCKS_JUDGED))
        self.median_s: dict[int, float] = {}
        """Of the actors that made enough blocks to be judged."""
        self.running: set[int] = set()
        """Slots whose process has delivered something."""
        self.doing: dict[int, tuple[str, float]] = {}
        """What a slot does that starts or has a dispatch, and since when; the others are idle."""
        self.lost_in_all = 0
        self.unplaced = 0
        """Times that a process was asked for and got no node in time."""
        self.last_sign = clock()
        self.weight_bytes = 0
        self._begin_interval(clock())

    def _begin_interval(self, now: float) -> None:
        self.since = now
        self.spent_s: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.versions, self.pulls, self.bytes_out = 0, 0, 0

    def starting(self, slot: int) -> None:
        """The process of a slot is asked for, or told what to supply."""
        self.doing[slot] = (STARTING, self.clock())

    def busy(self, slot: int) -> None:
        """An actor begins with a dispatch."""
        self.doing[slot] = (BUSY if slot in self.running else STARTING, self.clock())

    def idle(self, slot: int) -> None:
        """An actor is done, or lost."""
        self._account(slot, self.clock())
        del self.doing[slot]

    def received(self, slot: int, delivery: Delivery) -> None:
        """A delivery has arrived."""
        self.last_sign = self.clock()
        if slot not in self.running:
            self._account(slot, self.last_sign)
            self.running.add(slot)
            self.doing[slot] = (BUSY, self.last_sign)
        self.bytes_in[delivery.parcel.plain["kind"]] += delivery.parcel.tensors.nbytes
        made_s = self.made_s[slot]
        made_s.extend(span.duration_s for span in delivery.spans if span.name == "block")
        if len(made_s) == _BLOCKS_JUDGED:
            self.median_s[slot] = statistics.median(made_s)

    def handed_out(self, parcels: Sequence[Parcel]) -> None:
        """Windows go to a learner rank."""
        self.bytes_out += sum(parcel.tensors.nbytes for parcel in parcels)

    def published(self, weights: WeightsVersion) -> None:
        """A new version is there."""
        self.versions += 1
        self.weight_bytes = weights.nbytes

    def pulled(self) -> None:
        """An actor fetches the newest version."""
        self.pulls += 1

    def lost(self, slot: int, why: str) -> None:
        """An actor is gone, and another takes its place."""
        self.lost_in_all += 1
        self.retired(slot)

    def retired(self, slot: int) -> None:
        """An actor is gone."""
        self.made_s.pop(slot, None)
        self.running.discard(slot)
        self.median_s.pop(slot, None)

    def too_slow(self, slot: int, factor: float) -> bool:
        """Whether an actor is slower than the pool's median by more than `factor`; one alone never is."""
        own = self.median_s.get(slot)
        # Asked at every delivery: who keeps up with the fastest keeps up with the median, which costs a sort.
        if own is None or own <= factor * min(self.median_s.values()):
            return False
        return own > factor * statistics.median(s for other, s in self.median_s.items() if other != slot)

    def state(self) -> str:
        """For people."""
        silent_s = self.clock() - self.last_sign
        doing = Counter(what for what, _ in self.doing.values())
        said = f"{doing[BUSY]} of {len(self.slots)} actors busy, {doing[STARTING]} starting or waiting for a place"
        return f"{said}, last sign of life {silent_s:.0f} s ago"

    def metrics(self) -> dict[str, Any]:
        """Shares, rates and bytes of the interval that ends now; docs/reference/metrics.md explains each."""
        now = self.clock()
        for slot in self.doing:
            self._account(slot, now)
        elapsed_s = max(now - self.since, 1e-9)
        # A slot that was taken out of the pool may have been at work in this interval.
        whole_s = max(elapsed_s * len(self.slots), self.spent_s.total(), 1e-9)
        shares = {what: self.spent_s[what] / whole_s for what in (BUSY, STARTING)}
        found = {
            "rollout/busy_share": shares[BUSY],
            "rollout/starting_share": shares[STARTING],
            "rollout/idle_share": max(0.0, 1 - sum(shares.values())),
            "rollout/actors": len(self.slots),
            "rollout/actors_lost": self.lost_in_all,
            "rollout/actors_unplaced": self.unplaced,
            "weights/versions_per_s": self.versions / elapsed_s,
            "weights/pulls": self.pulls,
            "bytes/blocks_in": self.bytes_in["MadeBlock"],
            "bytes/windows_in": sum(self.bytes_in[kind] for kind in ("Window", "Group", "Trajectory")),
            "bytes/windows_out": self.bytes_out,
            "bytes/weights_out": self.pulls * self.weight_bytes,
        }
        self._begin_interval(now)
        return found

    def _account(self, slot: int, now: float) -> None:
        """Add up what a slot did until `now`, within the interval."""
        what, since = self.doing[slot]
        self.spent_s[what] += now - max(since, self.since)
