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
            if key not in self.instruments:
                kind = Counter if key.startswith(_AMOUNTS) else Gauge
                name = "longtake_" + re.sub(
                    r"\W", "_", key
                )  # characters that Prometheus allows; Ray adds the prefix `ray_`
                self.instruments[key] = kind(name, description=f"{key}, see docs/reference/metrics.md")
            instrument = self.instruments[key]
            if isinstance(instrument, Gauge):
                instrument.set(value)
            elif value > 0:  # a counter refuses 0
                instrument.inc(value)
