"""Who is busy and who waits: what the pool did, as numbers."""

import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from cluster.parcels import Parcel
from cluster.rollout_process import Delivery
from cluster.weights import PackedWeights

_BLOCKS_JUDGED = 5
"""Blocks over which an actor's speed is taken: a median, so that one hiccup is none."""


class Workload:
    """Of the rollout pool, over the time since it was last asked."""

    def __init__(self, slots: Sequence[int]):
        self.slots = slots
        self.made_s: dict[int, deque[float]] = {slot: deque(maxlen=_BLOCKS_JUDGED) for slot in slots}
        self.median_s: dict[int, float] = {}
        """Of the actors that made enough blocks to be judged."""
        self.lost_by: Counter[str] = Counter()
        self.busy_since: dict[int, float] = {}
        self.last_sign = time.monotonic()
        self.weight_bytes = 0
        self._begin_interval()

    def _begin_interval(self) -> None:
        self.since = time.monotonic()
        self.busy_s, self.versions, self.pulls, self.bytes_in, self.bytes_out = 0.0, 0, 0, 0, 0

    def busy(self, slot: int) -> None:
        """An actor begins with a dispatch."""
        self.busy_since[slot] = time.monotonic()

    def idle(self, slot: int) -> None:
        """An actor is done, or lost."""
        self.busy_s += time.monotonic() - max(self.busy_since.pop(slot), self.since)

    def received(self, slot: int, delivery: Delivery) -> None:
        """A delivery has arrived."""
        self.last_sign = time.monotonic()
        self.bytes_in += delivery.parcel.tensors.nbytes
        made_s = self.made_s[slot]
        made_s.extend(span.duration_s for span in delivery.spans if span.name == "block")
        if len(made_s) == _BLOCKS_JUDGED:
            self.median_s[slot] = statistics.median(made_s)

    def handed_out(self, parcels: Sequence[Parcel]) -> None:
        """Windows go to a learner rank."""
        self.bytes_out += sum(parcel.tensors.nbytes for parcel in parcels)

    def published(self, packed: PackedWeights) -> None:
        """A new version is there."""
        self.versions += 1
        self.weight_bytes = packed.nbytes

    def pulled(self) -> None:
        """An actor fetches the newest version."""
        self.pulls += 1

    def lost(self, slot: int, why: str) -> None:
        """An actor is gone."""
        self.lost_by[why.split(" ")[0]] += 1
        self.made_s[slot].clear()
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
        silent_s = time.monotonic() - self.last_sign
        return f"{len(self.busy_since)} of {len(self.slots)} actors busy, last sign of life {silent_s:.0f} s ago"

    def metrics(self) -> dict[str, Any]:
        """Shares, rates and bytes of the interval that ends now."""
        now = time.monotonic()
        elapsed = max(now - self.since, 1e-9)
        busy_s = self.busy_s + sum(now - max(started, self.since) for started in self.busy_since.values())
        found = {
            "rollout/busy_share": busy_s / (elapsed * len(self.slots)),
            "rollout/actors": len(self.slots),
            "rollout/actors_lost": sum(self.lost_by.values()),
            "weights/versions_per_s": self.versions / elapsed,
            "weights/pulls": self.pulls,
            "bytes/windows_in": self.bytes_in,
            "bytes/windows_out": self.bytes_out,
            "bytes/weights_out": self.pulls * self.weight_bytes,
        }
        self._begin_interval()
        return found
