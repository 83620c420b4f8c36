"""The metrics of a run at Ray's metrics port, for Prometheus."""

import re
from typing import Any

from ray.util.metrics import Counter, Gauge

_AMOUNTS = ("bytes/", "rollout/blocks", "waited/", "weights/pulls")
"""Keys that count what an interval added. Totals roll back with a checkpoint, which a counter cannot: gauges."""


class RayMetrics:
    """In the coordinator's process, which outlives a learner rank."""

    def __init__(self) -> None:
        self.instruments: dict[str, Counter | Gauge] = {}

    def show(self, metrics: dict[str, Any]) -> None:
        """Set the gauges, and add to the counters, of every number in `metrics`; what is no number is left out."""
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
    """The instrument of a metric: what Prometheus allows in a name. Ray puts `ray_` before it."""
    return "longtake_" + re.sub(r"\W", "_", key)


def kind_of(key: str) -> type[Counter] | type[Gauge]:
    """A counter for what each interval adds, a gauge for everything else."""
    return Counter if key.startswith(_AMOUNTS) else Gauge
