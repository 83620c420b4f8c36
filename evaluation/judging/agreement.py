"""Agreement of the judge with people, with itself over repeats, and with itself when a pair is shown swapped."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy
from scipy.stats import rankdata

from evaluation.bootstrap import BootstrapInterval, bootstrap_mean
from evaluation.judging.judge_answers import HIGHEST
from evaluation.judging.pairwise import PairVerdict
from evaluation.judging.video_judge import VideoVerdict
from models.errors import ConfigError
from models.user_paths import user_path

_DRAWS = 2000
_TAIL = 0.025
_RATINGS = "judge.ratings"


class Agreement(NamedTuple):
    """Holds a statistic of `count` videos and its 95 % bootstrap interval over videos; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    count: int


def quadratic_kappa(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Agreement:
    """Compute Cohen's kappa with quadratic weights between two ratings of the same videos.

    Undefined where all ratings are equal. With these weights it is 1 - E(a - b)^2 / E(a' - b')^2, where a' and b' are
    drawn independently (Cohen 1968), so that the ratings need not be whole numbers.
    """
    return _bootstrap(_pair_sums(one, other), _kappa, seed)


def spearman(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Agreement:
    """Compute Spearman's rank correlation with mean ranks for ties; undefined where a side is constant."""
    return _bootstrap(numpy.stack([one, other], 1).astype(numpy.float64), _rank_correlation, seed)


def self_agreement(verdicts: Mapping[str, VideoVerdict], seed: int = 0) -> Agreement:
    """Compute the quadratic-weighted kappa between repeats, over the videos with two scores or more.

    Every ordered pair of a video's scores counts, and the bootstrap draws whole videos.
    """
    repeats = ([score for score in verdict.repeats if score is not None] for verdict in verdicts.values())
    pairs = [numpy.array(list(permutations(scores, 2))) for scores in repeats if len(scores) > 1]
    sums = [_pair_sums(both[:, 0], both[:, 1]).sum(0) for both in pairs]
    return _bootstrap(numpy.array(sums).reshape(-1, 6), _kappa, seed)


def human_agreement(
    verdicts: Mapping[str, VideoVerdict], ratings: Mapping[str, float], seed: int = 0
) -> dict[str, Agreement]:
    """Compare scores with people's by `quadratic_kappa` and `spearman`, over the videos that have both."""
    points = {name: verdict.score * HIGHEST / 100 for name, verdict in verdicts.items() if verdict.score is not None}
    names = sorted(points.keys() & ratings.keys())
    judge, people = [points[name] for name in names], [ratings[name] for name in names]
    return {"kappa": quadratic_kappa(judge, people, seed), "spearman": spearman(judge, people, seed)}


def swap_consistency(verdicts: Mapping[str, PairVerdict], seed: int = 0) -> BootstrapInterval:
    """Compute the share of pairs with the same verdict in both orders; pairs without both are missing."""
    orders = (verdict.orders for verdict in verdicts.values())
    return bootstrap_mean([None if None in both else float(both[0] == both[1]) for both in orders], seed)


def read_ratings(given: str) -> dict[str, float]:
    """Read people's scores from a CSV file with the header name,score; a name given twice has the mean.

    Raises ConfigError with the line that is wrong.
    """
    path, scores = user_path(given, _RATINGS), dict[str, list[float]]()
    fix = "write a CSV file with the header name,score and scores from 0 to 5"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(_RATINGS, given, f"it cannot be read ({error})", fix) from error
    for number, row in enumerate(rows, start=2):
        try:
            name, score = (row["name"] or "").strip(), float(row["score"] or "")
        except (KeyError, ValueError) as error:
            raise ConfigError(_RATINGS, given, f"line {number} has no name or no number", fix) from error
        if not name or not 0 <= score <= HIGHEST:
            raise ConfigError(_RATINGS, given, f"line {number} has no name, or a score outside 0 to {HIGHEST}", fix)
        scores.setdefault(name, []).append(score)
    if not scores:
        raise ConfigError(_RATINGS, given, "it has no scores", fix)
    return {name: sum(own) / len(own) for name, own in scores.items()}


def _pair_sums(one: Sequence[float], other: Sequence[float]) -> numpy.ndarray:
    """Return, per pair of ratings, the terms of `_kappa`: [N 6]."""
    a, b = numpy.asarray(one, numpy.float64), numpy.asarray(other, numpy.float64)
    return numpy.stack([numpy.ones_like(a), (a - b) ** 2, a, b, a**2, b**2], 1)


def _kappa(sums: numpy.ndarray) -> numpy.ndarray:
    """Compute kappa from terms [... N 6]; NaN where all ratings are equal."""
    pairs, difference, a, b, a2, b2 = numpy.moveaxis(sums.sum(-2), -1, 0)
    expected = (a2 + b2) / pairs - 2 * a * b / pairs**2
    return numpy.where(expected > 1e-12, 1 - difference / pairs / numpy.where(expected > 1e-12, expected, 1), math.nan)


def _rank_correlation(pairs: numpy.ndarray) -> numpy.ndarray:
    """Compute Spearman's correlation of pairs [... N 2]; NaN where a side is constant."""
    ranks = rankdata(pairs, axis=-2)
    ranks = ranks - ranks.mean(-2, keepdims=True)
    a, b = ranks[..., 0], ranks[..., 1]
    spread = numpy.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return numpy.where(spread > 0, (a * b).sum(-1) / numpy.where(spread > 0, spread, 1), math.nan)


def _bootstrap(rows: numpy.ndarray, statistic: Callable[[numpy.ndarray], numpy.ndarray], seed: int) -> Agreement:
    """Compute a statistic of rows [N K], one per video, and its percentile interval; the same for any order of rows."""
    count = len(rows)
    if count < 2:
        return Agreement(None, None, None, count)
    rows = rows[numpy.lexsort(rows.T)]
    value = float(statistic(rows))
    draws = numpy.random.default_rng(seed).integers(count, size=(_DRAWS, count))
    drawn = statistic(rows[draws])
    drawn = drawn[numpy.isfinite(drawn)]  # a draw of equal ratings has no value
    if math.isnan(value) or not len(drawn):
        return Agreement(None, None, None, count)
    low, high = numpy.quantile(drawn, [_TAIL, 1 - _TAIL])
    return Agreement(value, float(low), float(high), count)
