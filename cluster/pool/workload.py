"""Measure the work of the rollout pool: shares of time, rates and bytes."""

from collections import Counter
from typing import Any

from cluster.autoscale.meter import Meter
from cluster.pool.rollout_process import Delivery
from cluster.pool.slots import Slots


class Workload:
    """Counts the work of the pool between two calls of `metrics`."""

    def __init__(self, slots: Slots, meter: Meter):
        self.slots, self.meter = slots, meter
        self.last_sign_s = meter.clock()
        self.weight_bytes = 0
        """Bytes of the newest version."""
        self._begin_interval()

    def _begin_interval(self) -> None:
        self.before = self.meter.totals()
        self.bytes_in: Counter[str] = Counter()
        self.versions, self.pulls, self.bytes_out = 0, 0, 0
        """Versions published, versions that actors fetched, and bytes of windows that ranks took."""

    def receive(self, delivery: Delivery) -> None:
        """Count a delivery."""
        self.last_sign_s = self.meter.clock()
        self.bytes_in[delivery.header.kind] += delivery.header.nbytes

    def state(self) -> str:
        """Describe the pool in a line, for the terminal."""
        levels, silent_s = self.meter.levels, self.meter.clock() - self.last_sign_s
        actors = f"{levels['busy']} of {len(self.slots)} actors busy"
        return f"{actors}, {levels['starting']} starting or waiting for a place, last sign of life {silent_s:.0f} s ago"

    def metrics(self) -> dict[str, Any]:
        """Return shares, rates and bytes of the interval that ends now; docs/reference/metrics.md explains each."""
        spent = self.meter.totals()
        spent.subtract(self.before)
        elapsed_s = max(spent["elapsed"], 1e-9)
        # A slot that was taken out of the pool may have been at work in this interval.
        whole_s = max(elapsed_s * len(self.slots), spent["busy"] + spent["starting"], 1e-9)
        busy, starting = spent["busy"] / whole_s, spent["starting"] / whole_s
        metrics = {
            "rollout/busy_share": busy,
            "rollout/starting_share": starting,
            "rollout/idle_share": max(0.0, 1 - busy - starting),
            "rollout/actors": len(self.slots),
            "rollout/actors_lost": self.slots.lost,
            "rollout/actors_unplaced": self.slots.unplaced,
            "weights/versions_per_s": self.versions / elapsed_s,
            "weights/pulls": self.pulls,
            "bytes/blocks_in": self.bytes_in["MadeBlock"],
            "bytes/windows_in": sum(self.bytes_in[kind] for kind in ("Window", "Group", "Trajectory")),
            "bytes/windows_out": self.bytes_out,
            "bytes/weights_out": self.pulls * self.weight_bytes,
        }
        self._begin_interval()
        return metrics
