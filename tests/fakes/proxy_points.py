"""The proxy and the exact judge of the tiny world beside each other, at several lengths of the same videos."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from scipy.stats import spearmanr
from torch import Tensor

from evaluation.second_curves import curves_of
from evaluation.stability.real_band import tiny_band
from evaluation.stability.stability_proxy import stability_proxy
from evaluation.tiny_metrics import segment_metrics
from models.video_stream import array_frames
from models.worlds.tiny_world import FPS, HORIZON
from tests.fakes.real_footage import enlarged

LENGTHS = (1, 2, 4, 8, 16)
"""Teacher horizons."""
ROWS_PER_HORIZON = 2
"""The reference, two rows, is the first horizon."""


def proxy_points(videos: Tensor, prompts: Sequence[str]) -> list[tuple[float, float]]:
    """Return mean proxy and mean validity of `videos` [B T 3 H W] in [0, 1], begun by each number of horizons.

    Repetition is left out: sprites bounce, and real videos of the tiny world come back by themselves.
    """
    unlike = tiny_band().unlike
    row_s = HORIZON / FPS / ROWS_PER_HORIZON
    curves = [curves_of(array_frames(enlarged(video), FPS), FPS, row_s, unlike) for video in videos]
    validity = segment_metrics(videos, prompts, HORIZON)["validity"]
    points = []
    for length in (length for length in LENGTHS if length * HORIZON <= videos.shape[1]):
        begun = [replace(each, rows=each.rows[: length * ROWS_PER_HORIZON], repeated=0.0) for each in curves]
        points.append((mean(stability_proxy(each).vs_proxy for each in begun), mean(validity[:length])))
    return points


def rank_agreement(points: Sequence[tuple[float, float]]) -> float:
    """Compute Spearman's correlation of proxy and validity over `points`."""
    return float(spearmanr(*zip(*points, strict=True)).statistic)
