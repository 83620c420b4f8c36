"""Write the report of an evaluation: videos in step, curves under one cursor, strips, and a table with intervals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from safetensors import SafetensorError

from evaluation.second_curves import CURVES
from evaluation.video_evaluation import open_video, read_rows
from evaluation.video_tasks import VideoTask
from models.atomic_files import write_atomic
from models.video_stream import UnreadableVideo
from reports.charts import STYLES, ChartText, Mark
from reports.clips import ClipPlan, PageClip, make_clip
from reports.page import flat_settings, render_page
from reports.video_page import PageCurve, PageMethod, PageVideo, curve_set, horizon_table, metric_table, players

SHOWN = 4
"""Videos of each method on the page: the first ones."""
FILM_BYTES = 13_000_000
"""Size of all films together; as text a third more, and the page stays below 20 MB."""
NOTES = ("judge",)
"""Parts of evaluation.json that tell of a column, shown below the table."""
_LEAST_RELATIVE = 0.02
_PEAKS = ("cut", "clipped")
"""Curves of which the highest value counts where neighbours are joined."""


def write_evaluation_report(
    path: Path,
    evaluation: Mapping[str, Any],
    tasks: Sequence[VideoTask],
    show: Callable[[int, int], None] = lambda done, videos: None,
) -> None:
    """Write report.html of the videos in `evaluation`, which holds at least one; `tasks` tell where they lie.

    `show` takes how many of the shown videos are on the page: each is decoded once more, from beginning to end.
    """
    placed = {(task.method, task.name): task for task in tasks}
    share = FILM_BYTES // (SHOWN * len(evaluation["methods"]))
    judged = {name: method["videos"] for name, method in evaluation["methods"].items()}
    end_s = max(result["seconds"] for results in judged.values() for result in results[:SHOWN])
    stops = doubling(end_s)
    shown, videos = sum(len(results[:SHOWN]) for results in judged.values()), {}
    done = 0
    show(done, shown)
    for method, results in judged.items():
        videos[method] = []
        for index, result in enumerate(results):
            own_stops = stops if index < SHOWN else None
            videos[method].append(_page_video(result, placed[method, result["name"]], own_stops, share))
            if own_stops is not None:
                done += 1
                show(done, shown)
    methods = [PageMethod(name, name, index % len(STYLES)) for index, name in enumerate(judged)]
    curves = curve_set(list(_page_curves()), methods, videos, SHOWN, 1.0)
    page = render_page(
        "evaluation.html.j2",
        kind="evaluation",
        commit=evaluation["commit"],
        headline=headline(evaluation),
        methods=methods,
        counts={name: (len(results), sum(one["seconds"] for one in results)) for name, results in judged.items()},
        players=players(methods, videos, SHOWN),
        stops=[*(Mark(stop, f"{stop:g} s") for stop in stops), Mark(end_s, "end")],
        charts=curves.charts,
        script=curves.script,
        table=metric_table(evaluation, methods),
        horizons=horizon_table(evaluation),
        pairs=evaluation.get("pairwise", {}).get("methods", []),
        skipped=evaluation["skipped"],
        notes={name: dict(flat_settings(evaluation[name])) for name in NOTES if name in evaluation},
        settings=dict(flat_settings(evaluation["settings"])),
    )
    write_atomic(path, page)


def headline(evaluation: Mapping[str, Any]) -> str:
    """Name what was judged, and how much of it; which is better is left to the table."""
    results = [result for method in evaluation["methods"].values() for result in method["videos"]]
    names = list(evaluation["methods"])
    judged = f"{len(results)} video{'s' if len(results) > 1 else ''}, {sum(one['seconds'] for one in results):g} s"
    whose = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{evaluation['settings'].get('title', 'Evaluation')}: {judged} of {whose}"


def doubling(end_s: float) -> list[float]:
    """Return 1, 2, 4, 8 and so on, as far as they are below `end_s`."""
    stops, stop = [], 1.0
    while stop < end_s:
        stops.append(stop)
        stop *= 2
    return stops


def _page_curves() -> Iterator[PageCurve]:
    for key, curve in CURVES.items():
        least = _LEAST_RELATIVE if curve.relative else 0.1
        text = ChartText(key, curve.label, curve.unit, (0.0, 1.0) if key == "cut" else None, least)
        yield PageCurve(text, numpy.nanmax if key in _PEAKS else numpy.nanmean)


def _page_video(result: Mapping[str, Any], task: VideoTask, stops: Sequence[float] | None, most: int) -> PageVideo:
    """Read the rows of a video, and make its clip unless `stops` is None."""
    rows = read_rows(task.rows_path)
    if stops is None:
        return PageVideo(result["name"], result["prompt"], rows)
    try:
        return PageVideo(result["name"], result["prompt"], rows, _clip(result, task, stops, most))
    except (UnreadableVideo, SafetensorError, OSError) as error:  # the file has changed since it was judged
        return PageVideo(result["name"], result["prompt"], rows, None, str(error))


def _clip(result: Mapping[str, Any], task: VideoTask, stops: Sequence[float], most_bytes: int) -> PageClip:
    seconds = max(result["frames"] / result["fps"], 1 / result["fps"])
    plan = ClipPlan(result["height"], result["width"], seconds, result["fps"], stops, most_bytes)
    _, frames = open_video(task, 1 / plan.rate)
    return make_clip(frames, plan)
