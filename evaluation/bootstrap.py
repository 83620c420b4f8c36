"""Give means of videos an interval, and rank methods only where their intervals allow it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy

_DRAWS = 2000
_LEVEL = 0.95


class BootstrapInterval(NamedTuple):
    """Hold a mean over videos and its 95 % bootstrap interval; `count` videos have a value, `missing` have none."""

    mean: float | None
    low: float | None
    high: float | None
    count: int
    missing: int

    def text(self, digits: int) -> str:
        """Write mean and interval, or a dash where there is no value."""
        if self.mean is None:
            return "-"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap_mean(values: Sequence[float | None], seed: int = 0) -> BootstrapInterval:
    """Compute the percentile bootstrap of the mean over videos; the same for the same values, in any order."""
    known = numpy.sort(numpy.array([value for value in values if value is not None], dtype=numpy.float64))
    missing = len(values) - len(known)
    if not len(known):
        return BootstrapInterval(None, None, None, 0, missing)
    draws = numpy.random.default_rng(seed).integers(len(known), size=(_DRAWS, len(known)))
    means = known[draws].mean(1)
    low, high = numpy.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return BootstrapInterval(float(known.mean()), float(low), float(high), len(known), missing)


def interval_curve(values: numpy.ndarray, seed: int = 0) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Compute mean and 95 % interval over videos of a curve [videos, points]; NaN where no video has a value.

    A draw takes whole videos: the points of a video do not vary on their own.
    """
    known = numpy.isfinite(values)
    filled, videos = numpy.where(known, values, 0.0), len(values)
    draws = numpy.random.default_rng(seed).multinomial(videos, [1 / videos] * videos, _DRAWS).astype(numpy.float64)
    with numpy.errstate(invalid="ignore"):
        mean = filled.sum(0) / known.sum(0)
        means = (draws @ filled) / (draws @ known)
    edges = numpy.full((2, values.shape[1]), numpy.nan)
    has = known.any(0)
    edges[:, has] = numpy.nanquantile(means[:, has], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    return mean, edges[0], edges[1]


def ranking(intervals: Mapping[str, BootstrapInterval], best: str) -> list[str] | None:
    """Order the methods of a metric, best first; None where neighbours' intervals overlap, or none is better.

    A single video gives no interval, and so no ranking.
    """
    if best not in ("low", "high") or len(intervals) < 2:
        return None
    if any(one.mean is None or one.count < 2 for one in intervals.values()):
        return None
    ordered = sorted(intervals, key=lambda name: intervals[name].mean, reverse=best == "high")
    for better, worse in pairwise(ordered):
        one, other = intervals[better], intervals[worse]
        apart = one.low > other.high if best == "high" else one.high < other.low
        if not apart:
            return None
    return ordered


def clear_best(intervals: Mapping[str, BootstrapInterval], best: str) -> str | None:
    """Return the method whose interval is apart from that of every other one, even where those overlap; else None."""
    for name, own in intervals.items():
        others = {other: interval for other, interval in intervals.items() if other != name}
        if others and all(ranking({name: own, other: one}, best) == [name, other] for other, one in others.items()):
            return name
    return None
