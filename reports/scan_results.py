"""Combine the trials of a scan: arms with mean and interval over seeds, a table, a CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from scipy.stats import t as student_t

from cluster.tuning.trials import Trial
from models.atomic_files import write_atomic
from reports.charts import STYLES
from reports.figures import CURVES, milestones, seconds_at


class SeedInterval(NamedTuple):
    """A mean, and half the width of Student's 95 % interval around it; None for a single seed."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.half is None else f" \u00b1 {self.half:.2f}")


def seed_interval(values: Sequence[float]) -> SeedInterval:
    """Average values, one per seed."""
    if len(values) < 2:
        return SeedInterval(values[0], None)
    quantile = float(student_t.ppf(0.975, len(values) - 1))
    return SeedInterval(mean(values), quantile * stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class ScanArm:
    """Group the trials of one combination of values, on several seeds."""

    title: str
    tone: int
    trials: tuple[Trial, ...]

    @cached_property
    def finished(self) -> dict[int, dict[str, list[float]]]:
        """Return metrics by seed, of finished trials."""
        ended = [trial for trial in self.trials if trial.folder.state == "finished"]
        return {trial.config.seed: trial.folder.scores["metrics"] for trial in ended}

    def at(self, metric: str, horizon: int) -> SeedInterval:
        """Average a metric over seeds, in the `horizon`-th teacher horizon, counted from 1."""
        return seed_interval([metrics[metric][horizon - 1] for metrics in self.finished.values()])

    def extremes(self, metric: str) -> tuple[list[float], list[float]]:
        """Return the least and the largest value over seeds, by horizon."""
        by_horizon = list(zip(*(metrics[metric] for metrics in self.finished.values()), strict=True))
        return [min(values) for values in by_horizon], [max(values) for values in by_horizon]

    def means(self, metric: str) -> list[float]:
        """Average a metric over seeds, by horizon."""
        return [mean(values) for values in zip(*(m[metric] for m in self.finished.values()), strict=True)]

    def above(self, other: "ScanArm", metric: str) -> dict[int, float]:
        """Subtract the last value of `other`, on each seed that both have finished: equal prompts, equal noise."""
        both = [seed for seed in self.finished if seed in other.finished]
        return {seed: self.finished[seed][metric][-1] - other.finished[seed][metric][-1] for seed in both}


def arms_of(trials: Sequence[Trial]) -> list[ScanArm]:
    """Group trials by arm, in the scan's order."""
    titles = list(dict.fromkeys(trial.arm for trial in trials))
    return [
        ScanArm(title, tone % len(STYLES), tuple(trial for trial in trials if trial.arm == title))
        for tone, title in enumerate(titles)
    ]


def scan_table(arms: Sequence[ScanArm]) -> str:
    """Format validity with its interval at 1, 2, 4, ... horizons, arms against the first by seed, and trial states."""
    finished = [arm for arm in arms if arm.finished]
    width = max(len(arm.title) for arm in arms) + 2
    lines = []
    if finished:
        segments = milestones(len(finished[0].means("validity")))
        lines += [" " * width + "".join(f"{f'{segment}x':>15}" for segment in segments)]
        lines += [f"{'validity':<{width}}" + "".join(f"{seconds_at(segment):>15}" for segment in segments)]
        for arm in finished:
            lines += [f"{arm.title:<{width}}" + "".join(f"{arm.at('validity', s)!s:>15}" for s in segments)]
        for arm in finished[1:]:
            apart = ", ".join(f"{by:+.2f} on seed {seed}" for seed, by in arm.above(finished[0], "validity").items())
            if apart:
                lines += [f"{arm.title} against {finished[0].title} at {segments[-1]}x: {apart}"]
    for arm in arms:
        states = [trial.folder.state for trial in arm.trials]
        counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines += [f"{arm.title:<{width}}{counted}"]
    return "\n".join(lines)


def write_csv(path: Path, trials: Sequence[Trial]) -> None:
    """Write a row for each trial and horizon; one without metrics for a trial that is stopped or unfinished."""
    keys = list(trials[0].values)
    metrics = [curve.key for curve in CURVES] + ["out_of_range", "speed"]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", *keys, "seed", "state", "updates", "drift", "cpu_seconds", "horizon", *metrics])
    for trial in trials:
        folder = trial.folder
        last = folder.measurements[-1] if folder.measurements else {"step": 0, "drift": ""}
        values = [str(value) for value in trial.values.values()]
        seconds = folder.scores["cpu_seconds"] if folder.state == "finished" else None
        spent = "" if seconds is None else f"{seconds:.1f}"
        start = [trial.arm, *values, trial.config.seed, folder.state, int(last["step"]), last["drift"], spent]
        if folder.state != "finished":
            rows.writerow([*start, ""] + [""] * len(metrics))
            continue
        scored = folder.scores["metrics"]
        for horizon in range(len(scored["validity"])):
            rows.writerow([*start, horizon + 1] + [scored[metric][horizon] for metric in metrics])
    write_atomic(path, text.getvalue().encode())
