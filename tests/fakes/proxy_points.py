"""The proxy and the exact judge of the tiny world beside each other, at several lengths of the same videos."""

from collections.abc import Sequence
from statistics import mean

from scipy.stats import spearmanr
from torch import Tensor

from evaluation.metrics import segment_metrics
from evaluation.second_curves import curves_of
from evaluation.stability.stability_proxy import stability_proxy
from evaluation.video_stream import array_frames
from models.worlds.tiny_world import FPS, HORIZON
from tests.fakes.real_footage import enlarged

LENGTHS = (1, 2, 4, 8, 16)
"""Teacher horizons."""
ROW_S = 0.1875
"""Seconds of a row: a quarter of a horizon, so that the reference is half of the first."""


def proxy_points(videos: Tensor, prompts: Sequence[str], lengths: Sequence[int] = LENGTHS) -> list[tuple[float, float]]:
    """Return mean proxy and mean validity of `videos` [B T 3 H W] in [0, 1], of each number of horizons."""
    points = []
    for length in lengths:
        begun = videos[:, : length * HORIZON]
        proxies = [
            stability_proxy(curves_of(array_frames(enlarged(video), FPS), FPS, ROW_S), prompt).vs_proxy
            for video, prompt in zip(begun, prompts, strict=True)
        ]
        points.append((mean(proxies), mean(segment_metrics(begun, prompts, HORIZON)["validity"])))
    return points


def rank_agreement(points: Sequence[tuple[float, float]]) -> float:
    """Compute Spearman's correlation of proxy and validity over `points`."""
    return float(spearmanr(*zip(*points, strict=True)).statistic)
