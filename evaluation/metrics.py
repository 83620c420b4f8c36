"""Compute the metrics of a video from its curves: how fast it drifts, how bad it gets, for how long, how it ends."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy

from evaluation.second_curves import CURVES, REFERENCE_S, Row, SecondCurve, VideoCurves, finite
from evaluation.stability.stability_proxy import COMPONENTS, stability_proxy

END_SHARE = 0.15
"""Share of the video at each end that `ends` compares, as FramePack and Helios do."""
WORST_S = 2
"""Seconds of the window that `worst` looks for."""
BANDS = {
    "luma": 0.08,
    "contrast": 0.15,
    "clipped": 0.10,
    "saturation": 0.08,
    "sharpness": 0.50,
    "motion": 0.75,
    "validity": 0.25,
    "distance": 0.50,
}
"""Largest deviation from the first two seconds that counts as stable, in the unit of the curve, or as a share."""
_MOVING_SHARE = 4 / 16
"""Share of moving pairs from which VBench calls a video dynamic."""
_CUT = 0.5
SLOPE_POINTS = 1200
"""Most points of a trend, whose memory and time grow with their square; longer curves join neighbours."""
_REALITY = "0 to 5; none where there are no real videos to compare with: the proxy then sees changes only"
_LEAST_LEVEL = 1e-4
"""Level below which a relative deviation is taken from this instead."""


class Metric(NamedTuple):
    """Describe a number of a whole video."""

    label: str
    unit: str
    best: str
    """`low`, `high`, or empty where neither is better."""


def metrics() -> dict[str, Metric]:
    """Describe every metric of `summarise`, by name: those of the whole video first."""
    described = {
        "vs_proxy": Metric("VS-proxy (computed, no judge)", "0 to 100", "high"),
        "dynamic_degree": Metric("dynamic degree (DIS)", "1 where a quarter of the pairs moves, else 0", "high"),
        "moving_pairs": Metric("moving pairs (DIS)", "share", "high"),
        "still": Metric("repeated frames", "share", "low"),
        "no_repeat": Metric("NoRepeat", "1 where no stretch of 3 s comes again, else 0", "high"),
        "cuts": Metric("cuts", "number", ""),
    }
    for name in BANDS:
        label, relative = CURVES[name].label, CURVES[name].relative
        unit = "share of the start" if relative else CURVES[name].unit
        described |= {
            f"{name}.slope": Metric(f"{label}: trend", f"{unit}, per minute", ""),
            f"{name}.worst": Metric(f"{label}: worst {WORST_S} s", f"deviation from the start, {unit}", "low"),
            f"{name}.outside": Metric(f"{label}: time outside the band", "share of seconds", "low"),
            f"{name}.ends": Metric(f"{label}: last 15 % against first", f"difference, {unit}", "low"),
        }
    described |= {
        f"vs_proxy.{part}": Metric(f"VS-proxy: points lost by {part}", "0 to 5", "low") for part in COMPONENTS
    }
    return described | {
        "vs_proxy.reality": Metric("VS-proxy: points lost by unlikeness to real videos", _REALITY, "low")
    }


def summarise(curves: VideoCurves, prompt: str = "") -> dict[str, float | None]:
    """Compute every metric of a video; None where it cannot be measured, as motion in a single frame.

    The proxy of Visual Stability allows what `prompt` asks for.
    """
    summary: dict[str, float | None] = {}
    for name in BANDS:
        summary |= {f"{name}.{kind}": value for kind, value in summarise_curve(name, curves.rows).items()}
    moving = curves.moving_pairs / curves.pairs if curves.pairs else None
    still = [row["still"] * row["frames"] for row in curves.rows if row["still"] is not None]
    starts = sum(row["cut"] is not None and row["cut"] >= _CUT for row in curves.rows)
    proxy = stability_proxy(curves, prompt)._asdict()
    summary |= {name if name == "vs_proxy" else f"vs_proxy.{name}": value for name, value in proxy.items()}
    return summary | {
        "dynamic_degree": None if moving is None else float(moving >= _MOVING_SHARE),
        "moving_pairs": moving,
        "still": sum(still) / curves.frames if still else None,
        "no_repeat": float(curves.repeated == 0),
        "cuts": float(starts),
    }


def summarise_curve(name: str, rows: Sequence[Row]) -> Mapping[str, float | None]:
    """Compute slope (Theil-Sen, per minute), worst window, time outside the band, and start-end contrast of a curve."""
    return summarise_points(list(finite(rows, name)), CURVES[name], BANDS[name])


def summarise_points(
    points: Sequence[tuple[float, float]], curve: SecondCurve, band: float
) -> Mapping[str, float | None]:
    """Compute what `summarise_curve` does of (second, value) of any curve; deviations above `band` are outside."""
    if not points:
        return dict.fromkeys(("slope", "worst", "outside", "ends"))
    seconds, values = (numpy.array(column, dtype=numpy.float64) for column in zip(*points, strict=True))
    start = values[seconds < REFERENCE_S]
    level = float(start.mean() if len(start) else values[0])
    from scipy.stats import theilslopes  # a second to import, and most processes that import this summarise nothing

    scale = max(abs(level), _LEAST_LEVEL) if curve.relative else 1.0
    deviations = (values - level) / scale
    length = min(WORST_S, len(values))
    windows = numpy.convolve(deviations, numpy.ones(length) / length, "valid")
    end = max(1, round(END_SHARE * len(values)))
    starts = numpy.arange(0, len(values), math.ceil(len(values) / SLOPE_POINTS))
    counts = numpy.diff([*starts, len(values)])
    joined, times = (numpy.add.reduceat(column, starts) / counts for column in (deviations, seconds / 60))
    slope = theilslopes(joined, times).slope if len(joined) > 1 else 0.0
    return {
        "slope": float(slope),
        "worst": float(numpy.abs(windows).max()),
        "outside": float((numpy.abs(deviations) > band).mean()),
        "ends": float(abs(values[-end:].mean() - values[:end].mean()) / scale),
    }
