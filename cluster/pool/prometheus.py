"""Show the metrics of a run at Ray's metrics port, for Prometheus."""

import re
from typing import Any

from ray.util.metrics import Counter, Gauge

_AMOUNTS = ("bytes/", "rollout/blocks", "waited/", "weights/pulls")
"""Keys of amounts per interval, which are counters. Totals roll back with a checkpoint, so they are gauges."""


class RayMetrics:
    """Sets gauges and counters in the coordinator's process, which outlives a learner rank."""

    def __init__(self) -> None:
        self.instruments: dict[str, Counter | Gauge] = {}

    def show(self, metrics: dict[str, Any]) -> None:
        """Set the gauges, and add to the counters, of every number in `metrics`; other values are left out."""
        for key, value in metrics.items():
            if not isinstance(value, int | float):
                continue
            kind = kind_of(key)
            if key not in self.instruments:
                self.instruments[key] = kind(name_of(key), description=f"{key}, see docs/reference/metrics.md")
            instrument = self.instruments[key]
            if kind is Gauge:
                instrument.set(value)
            elif value > 0:  # a counter refuses 0
                instrument.inc(value)


def name_of(key: str) -> str:
    """Return the instrument's name, of characters that Prometheus allows; Ray puts `ray_` before it."""
    return "longtake_" + re.sub(r"\W", "_", key)


def kind_of(key: str) -> type[Counter] | type[Gauge]:
    """Return a counter for amounts per interval, a gauge for everything else."""
    return Counter if key.startswith(_AMOUNTS) else Gauge
