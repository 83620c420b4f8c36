"""Proxies of a clip at rising severities of a degradation, and how well they follow the severity."""

from collections.abc import Sequence

import numpy
from scipy.stats import spearmanr

from evaluation.second_curves import curves_of
from evaluation.stability.degradations import Degradation, degrade
from evaluation.stability.real_band import RealBand
from evaluation.stability.stability_proxy import Stability, stability_proxy
from models.video_stream import array_frames


def degraded_stability(
    clip: numpy.ndarray, fps: float, kind: Degradation, severity: float, seed: int, band: RealBand | None = None
) -> Stability:
    """Degrade a clip and judge it, with the words of its kind as prompt, and compared with a band of real videos."""
    frames = numpy.stack(list(degrade(clip, len(clip), kind, severity, seed)))
    curves = curves_of(array_frames(frames, fps), fps, unlike=None if band is None else band.unlike)
    return stability_proxy(curves, f"a clip, {kind.prompt}")


def ladder(
    clip: numpy.ndarray, fps: float, kind: Degradation, severities: Sequence[float], seed: int,
    band: RealBand | None = None,
) -> list[float]:  # fmt: skip
    """Return the proxy at each severity."""
    return [degraded_stability(clip, fps, kind, severity, seed, band).vs_proxy for severity in severities]


def agreement(severities: Sequence[float], proxies: Sequence[float]) -> float:
    """Compute Spearman's correlation of severity with the loss of the proxy."""
    return float(spearmanr(severities, [-value for value in proxies]).statistic)
