"""Build what every page with videos and curves over time shows: charts with one cursor, players, and the table."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from evaluation.bootstrap import BootstrapInterval, clear_best, interval_curve
from reports.charts import Chart, ChartLine, ChartText, Mark, TimeAxis, line_chart
from reports.clips import PageClip

MOST_POINTS = 600
"""Most points of a line; longer curves join neighbours."""
_QUICK_S = 60
"""Longest time for playing a page's videos once, at the speed that is chosen first, in seconds."""
SPEEDS = (1, 2, 4, 8, 16)


class PageMethod(NamedTuple):
    """Names a method of a page, and its style."""

    name: str
    title: str
    tone: int


@dataclass(frozen=True)
class PageVideo:
    """Holds the numbers and the clip of one video."""

    name: str
    prompt: str | None
    rows: Sequence[Mapping[str, float | None]]
    """Numbers of each stretch of time, by curve; `second` is where it begins."""
    clip: PageClip | None = None
    """None where the page only takes its numbers."""
    problem: str = ""
    """Reason for which a video that should be shown has no clip."""


@dataclass(frozen=True)
class PageCurve:
    """Describes a curve of a page."""

    text: ChartText
    join: Callable[..., numpy.ndarray] = numpy.nanmean
    """Joins neighbours of a curve that has too many points."""


class CurveSet(NamedTuple):
    """Holds the charts of a page, and the numbers that its script prints at the cursor."""

    charts: list[Chart]
    script: dict[str, Any]


def curve_set(
    curves: Sequence[PageCurve],
    methods: Sequence[PageMethod],
    videos: Mapping[str, Sequence[PageVideo]],
    shown: int,
    step_s: float,
    marks: Sequence[Mark] = (),
) -> CurveSet:
    """Lay out the curves: the mean over videos with its 95 % interval, then each of the first `shown` videos."""
    end_s = max(video.rows[-1]["second"] for column in videos.values() for video in column) + step_s
    points = round(end_s / step_s)
    size = math.ceil(points / MOST_POINTS)
    axis = TimeAxis(step_s * size, end_s, marks)
    charts, values = [], {}
    for curve in curves:
        tables = [_table(curve, videos[method.name], points, step_s, size) for method in methods]
        views = [[_mean_line(table, method.tone) for table, method in zip(tables, methods, strict=True)]]
        for index in range(min(shown, max(map(len, tables)))):
            rows = [table[index] if index < len(table) else () for table in tables]
            views.append([ChartLine(_known(row), method.tone) for row, method in zip(rows, methods, strict=True)])
        charts.append(line_chart(curve.text, views, axis))
        values[curve.text.key] = [[[_short(value) for value in line.values] for line in view] for view in views]
    return CurveSet(charts, cursor_script(axis, values))


def cursor_script(axis: TimeAxis, values: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what the page's script reads: `values` by curve, view, method and stretch of time."""
    speed = next((speed for speed in SPEEDS if axis.end_s / speed <= _QUICK_S), SPEEDS[-1])
    return {"seconds": axis.end_s, "step": axis.step_s, "speed": speed, "values": dict(values)}


def players(methods: Sequence[PageMethod], videos: Mapping[str, Sequence[PageVideo]], shown: int) -> list[dict]:
    """Put the videos of one index together: a title, and one cell for each method that has it."""
    rows = []
    for index in range(min(shown, max(map(len, videos.values())))):
        cells = [(method, videos[method.name][index]) for method in methods if index < len(videos[method.name])]
        prompts = {video.prompt for _, video in cells if video.prompt}
        names = ", ".join(dict.fromkeys(video.name for _, video in cells))
        prompt = prompts.pop() if len(prompts) == 1 else None
        rows.append({"title": prompt or names, "cells": cells})
    return rows


def metric_table(evaluation: Mapping[str, Any], titles: Sequence[PageMethod]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Group the metrics of an evaluation by the part of their label before a colon, as rows of a table."""
    groups: dict[str, list[dict[str, Any]]] = {}
    methods, short = evaluation["methods"], {one.name: one.title.partition(":")[0] for one in titles}
    for name, metric in evaluation["metrics"].items():
        group, colon, label = metric["label"].partition(": ")
        ranked = evaluation["rankings"][name]
        cells = {method: content["metrics"][name] for method, content in methods.items()}
        best = clear_best({method: BootstrapInterval(**cell) for method, cell in cells.items()}, metric["best"])
        row = {
            "label": label if colon else group,
            "unit": metric["unit"],
            "cells": cells,
            "best": best,
            "ranking": _ranking_text(
                [short[one] for one in ranked or ()], short.get(best), metric["best"], list(cells.values())
            ),
        }
        groups.setdefault(group if colon else "whole video", []).append(row)
    return list(groups.items())


def horizon_table(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out every metric at each of the evaluation's horizons, a row for each method; None where there are none.

    A method without a video of that length has no cell there; the whole of the videos comes last.
    """
    methods = evaluation["methods"]
    ends = sorted({end for method in methods.values() for end in method["horizons"]}, key=float)
    if not ends:
        return None
    rows = []
    for key, metric in evaluation["metrics"].items():
        cells = {name: [method["horizons"].get(end, {}).get(key) for end in ends] for name, method in methods.items()}
        if not any(cell and cell["mean"] is not None for own in cells.values() for cell in own):
            continue  # a metric of whole videos only, such as the judge's
        cells = {name: [*own, methods[name]["metrics"][key]] for name, own in cells.items()}
        rows.append({"label": metric["label"], "unit": metric["unit"], "cells": cells})
    return {"ends": [f"{end} s" for end in ends], "rows": rows}


def _ranking_text(ranked: Sequence[str], clear: str | None, best: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """Tell the order of the methods, or of which of them alone it is clear, or why there is none."""
    if ranked:
        return ", ".join(f"{place}. {method}" for place, method in enumerate(ranked, 1))
    if best not in ("low", "high"):
        return "no ranking: neither end is better"
    if any(cell["mean"] is None for cell in cells):
        return "no ranking: a method has no value"
    if any(cell["count"] < 2 for cell in cells):
        return "no ranking: one video gives no interval"
    if clear is not None:
        return f"1. {clear}; the others' intervals overlap"
    return "no ranking: intervals overlap"


def _table(curve: PageCurve, videos: Sequence[PageVideo], points: int, step_s: float, size: int) -> numpy.ndarray:
    """Put a curve of several videos into an array [videos, points / size], NaN where there is no value."""
    table = numpy.full((len(videos), math.ceil(points / size) * size), numpy.nan)
    for row, video in zip(table, videos, strict=True):
        for numbers in video.rows:
            value = numbers.get(curve.text.key)
            if value is not None:
                row[round(numbers["second"] / step_s)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy warns about stretches without any value
        return curve.join(table.reshape(len(videos), -1, size), axis=2)


def _mean_line(table: numpy.ndarray, tone: int) -> ChartLine:
    mean, low, high = interval_curve(table)
    if len(table) < 2:
        return ChartLine(_known(mean), tone)
    return ChartLine(_known(mean), tone, _known(low), _known(high))


def _known(values: numpy.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
