"""Compare methods in pairs: their films of the same prompt, each pair shown to the judge in both orders."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.bootstrap import bootstrap_mean
from evaluation.judging.agreement import swap_consistency
from evaluation.judging.inquiry import JudgedVideo
from evaluation.judging.judge_answers import FIRST, SECOND, TIE
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.pairwise import PairVerdict, VideoPair, judge_pairs
from evaluation.video_tasks import VideoTask

_POINTS = {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}
"""Share of a pair that its first video wins, by verdict."""


class MethodPair(NamedTuple):
    """Holds films of one prompt from two methods."""

    first: VideoTask
    second: VideoTask

    @property
    def name(self) -> str:
        """Return a name that no other pair of the evaluation has."""
        return f"{self.first.method}/{self.first.name} with {self.second.method}/{self.second.name}"


class Comparison(NamedTuple):
    """Holds the outcome of all pairs."""

    points: dict[VideoTask, float | None]
    """Share of its pairs that each film wins, a tie counting half; None where no pair has a verdict."""
    report: dict[str, Any]
    """Part of evaluation.json: win rate and consistency for each two methods, and every verdict."""


def method_pairs(tasks: Sequence[VideoTask]) -> list[MethodPair]:
    """Pair the films of each two methods: the n-th of a prompt with the n-th; films without a prompt by their name."""
    films: dict[str, dict[tuple[str, str, int], VideoTask]] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for task in tasks:
        if task.index is not None:
            continue
        subject = ("name", task.name) if task.prompt is None else ("prompt", task.prompt)
        films.setdefault(task.method, {})[*subject, counts[task.method, *subject]] = task
        counts[task.method, *subject] += 1
    return [
        MethodPair(own[subject], other[subject])
        for own, other in combinations(films.values(), 2)
        for subject in own
        if subject in other
    ]


def compare_methods(
    pairs: Sequence[MethodPair], config: JudgeConfig, transcripts: Path, progress: Callable[[str], None]
) -> Comparison:
    """Ask for every pair in both orders, but for what a transcript answers. Raises ConfigError as `judge_pairs`."""
    asked = [
        VideoPair(pair.name, *(JudgedVideo(f"{one.method}/{one.name}", one.path, one.prompt or "") for one in pair))
        for pair in pairs
    ]
    verdicts = judge_pairs(asked, config, transcripts, progress)
    named = {pair.name: pair for pair in pairs}
    by_methods: dict[tuple[str, str], dict[str, PairVerdict]] = {}
    points: dict[VideoTask, list[float | None]] = {}
    for name, verdict in verdicts.items():
        first, second = named[name]
        by_methods.setdefault((first.method, second.method), {})[name] = verdict
        share = _POINTS.get(verdict.better)
        for task, own_share in ((first, share), (second, None if share is None else 1 - share)):
            points.setdefault(task, []).append(own_share)
    rates = [{"first": one, "second": other} | win_rate(own) for (one, other), own in by_methods.items()]
    listed = [
        {"first": f"{named[name].first.method}/{named[name].first.name}",
         "second": f"{named[name].second.method}/{named[name].second.name}",
         "better": verdict.better, "orders": list(verdict.orders), "missing": list(verdict.missing)}
        for name, verdict in verdicts.items()
    ]  # fmt: skip
    means = {task: bootstrap_mean(shares).mean for task, shares in points.items()}
    reasons = sorted({reason for verdict in verdicts.values() for reason in verdict.missing})
    return Comparison(means, {"methods": rates, "verdicts": listed, "reasons": reasons})


def win_rate(verdicts: Mapping[str, PairVerdict]) -> dict[str, Any]:
    """Summarise the pairs of two methods: what share the first wins, and what share agrees in both orders.

    A tie counts half. Both shares are means over pairs with intervals; a pair without both answers is missing.
    """
    counts = Counter(verdict.better for verdict in verdicts.values())
    return {
        "win_rate": bootstrap_mean([_POINTS.get(verdict.better) for verdict in verdicts.values()])._asdict(),
        "consistency": swap_consistency(verdicts)._asdict(),
        "wins": counts[FIRST], "ties": counts[TIE], "losses": counts[SECOND], "missing": counts[None],
    }  # fmt: skip
