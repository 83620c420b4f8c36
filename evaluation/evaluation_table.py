"""Put the results of videos together: methods by metrics, with intervals, in evaluation.json."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.bootstrap import BootstrapInterval, bootstrap_mean, ranking
from evaluation.metrics import Metric
from evaluation.video_tasks import Skipped, natural_order
from models.atomic_files import write_atomic

FORMAT = 1
"""Number of the layout of evaluation.json."""


def evaluation_of(
    results: Sequence[Mapping[str, Any]],
    skipped: Sequence[Skipped],
    described: Mapping[str, Metric],
    settings: Mapping[str, Any],
    commit: str,
) -> dict[str, Any]:
    """Build the content of evaluation.json from the videos' results, in the order of methods and names.

    A ranking by a metric is there only where the 95 % intervals of neighbours do not overlap.
    """
    methods: dict[str, dict[str, Any]] = {}
    for result in sorted(results, key=lambda one: natural_order(one["name"])):
        methods.setdefault(result["method"], {"videos": []})["videos"].append(dict(result))
    order = list(dict.fromkeys(result["method"] for result in results))
    named = {name: metric for name, metric in described.items() if any(name in result["metrics"] for result in results)}
    for method in methods.values():
        values = {name: [video["metrics"].get(name) for video in method["videos"]] for name in named}
        method["metrics"] = {name: bootstrap_mean(column)._asdict() for name, column in values.items()}
        ends = sorted({end for video in method["videos"] for end in video.get("horizons", {})}, key=float)
        method["horizons"] = {end: _at_horizon(method["videos"], end, named) for end in ends}
    rankings = {
        name: ranking({method: BootstrapInterval(**methods[method]["metrics"][name]) for method in order}, metric.best)
        for name, metric in named.items()
    }
    return {
        "format": FORMAT,
        "commit": commit,
        "settings": dict(settings),
        "metrics": {name: metric._asdict() for name, metric in named.items()},
        "methods": {name: methods[name] for name in order},
        "rankings": rankings,
        "skipped": [asdict(one) for one in skipped],
    }


def _at_horizon(videos: Sequence[Mapping[str, Any]], end: str, names: Iterable[str]) -> dict[str, Any]:
    """Average the metrics of the first `end` seconds over the videos that are as long."""
    reaching = [video["horizons"][end] for video in videos if end in video.get("horizons", {})]
    return {name: bootstrap_mean([metrics.get(name) for metrics in reaching])._asdict() for name in names}


def keep_earlier(path: Path, page: Path, is_same: Callable[[Mapping[str, Any]], bool]) -> str | None:
    """Rename an earlier table at `path`, unless it `is_same`, and its report; return a note where there was one."""
    try:
        kept = is_same(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = False  # none yet, or no table of ours: renamed all the same
    if kept or not path.exists():
        return None
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.stem}_{n}.json").exists())
    moved = {one: one.with_stem(f"{one.stem}_{number}") for one in (path, page) if one.exists()}
    for one, target in moved.items():
        one.rename(target)
    return f"{path.parent} held another table: it is now {', '.join(target.name for target in moved.values())}"


def judged_videos(evaluation: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return method and digest of every video of an evaluation."""
    methods = evaluation["methods"].items()
    return {(name, video["digest"]) for name, method in methods for video in method["videos"]}


def write_evaluation(path: Path, evaluation: Mapping[str, Any]) -> None:
    """Write evaluation.json, whole or not at all."""
    write_atomic(path, (json.dumps(evaluation, indent=1, allow_nan=False) + "\n").encode())


def evaluation_text(evaluation: Mapping[str, Any], names: Sequence[str]) -> str:
    """Format the metrics `names` as a table: a line for each metric, a column for each method, with intervals."""
    methods = evaluation["methods"]
    labels = {name: evaluation["metrics"][name]["label"] for name in names if name in evaluation["metrics"]}
    width = max(map(len, labels.values()), default=0) + 2
    columns = [max(len(name), 24) + 2 for name in methods]
    lines = [" " * width + "".join(f"{name:>{column}}" for name, column in zip(methods, columns, strict=True))]
    for name, label in labels.items():
        cells = [BootstrapInterval(**method["metrics"][name]).text(3) for method in methods.values()]
        aligned = "".join(f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
        lines.append(f"{label:<{width}}{aligned}")
    return "\n".join(lines)


def pairs_text(rates: Sequence[Mapping[str, Any]]) -> str:
    """Format the win rates of methods that the judge compared in pairs: a line for each two methods."""
    lines = []
    for rate in rates:
        won, same = (BootstrapInterval(**rate[name]).text(3) for name in ("win_rate", "consistency"))
        counts = ", ".join(f"{rate[name]} {name}" for name in ("wins", "ties", "losses", "missing"))
        lines.append(f"{rate['first']} over {rate['second']}: win rate {won}; {counts}; same in both orders {same}")
    return "\n".join(lines)
