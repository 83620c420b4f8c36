"""Write the report of a demo run: summary.json, report.html in one file, and a table for the terminal.

It states only numbers of `evaluation.tiny_metrics`, and shows videos in the order in which they were generated.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from models.atomic_files import write_atomic
from models.video_stream import array_frames
from models.worlds.tiny_world import FPS, HORIZON
from reports.charts import Mark
from reports.clips import ClipPlan, make_clip
from reports.figures import (
    CURVES,
    MethodResult,
    chart_text,
    check_methods,
    horizon_marks,
    milestones,
    percent,
    seconds_at,
    write_picture,
)
from reports.page import flat_settings, render_page
from reports.video_page import PageCurve, PageMethod, PageVideo, curve_set, metric_table, players

__all__ = ["MethodResult", "summary_headline", "summary_table", "write_picture", "write_report", "write_summary"]

OURS, BASELINE = "uniform", "prefix_1"
HELD, LEVEL, MOVING = 0.90, 0.05, 0.85
"""Thresholds of the headline: stable validity, negligible gap, stable motion."""
SHOWN = 8
"""Videos in the report: the first ones."""
TRAINING_FRAMES = "rollout.frames"
"""Setting, nested or dotted, with the length of the training rollouts in latent frames; marked in the curves."""


def write_summary(
    path: str | Path,
    *,
    commit: str,
    seconds: Mapping[str, float],
    settings: Mapping[str, Any],
    arms: Sequence[MethodResult],
) -> dict[str, Any]:
    """Write summary.json, whole or not at all, and return its content."""
    check_methods(arms)
    methods = {
        arm.name: {"title": arm.title, "videos": len(arm.prompts)}
        | {key: list(values) for key, values in arm.metrics.items()}
        for arm in arms
    }
    summary = {"commit": commit, "seconds": dict(seconds), "settings": dict(settings), "methods": methods}
    write_atomic(Path(path), (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    return summary


def write_report(
    path: str | Path, summary: Mapping[str, Any], arms: Sequence[MethodResult], evaluation: Mapping[str, Any]
) -> None:
    """Write report.html: numbers of `evaluation`, frames of `arms`, nothing that lies outside the file."""
    check_methods(arms)
    if list(summary["methods"]) != [arm.name for arm in arms]:
        raise ValueError(f"the summary is of {list(summary['methods'])}, not of {[arm.name for arm in arms]}")
    settings = dict(flat_settings(summary["settings"]))
    given = settings.get(TRAINING_FRAMES, "none")
    stops = [Mark(segment * HORIZON / FPS - 1 / FPS, f"{segment}x") for segment in milestones(arms[0].segments)]
    methods = [PageMethod(arm.name, arm.title, arm.tone) for arm in arms]
    times = [stop.time_s for stop in stops[:-1]]
    videos = {
        arm.name: list(horizon_videos(arm.videos, evaluation["methods"][arm.name]["videos"], times)) for arm in arms
    }
    marks = horizon_marks(None if given == "none" else int(given))
    curves = curve_set([PageCurve(chart_text(c)) for c in CURVES], methods, videos, SHOWN, HORIZON / FPS, marks)
    motion = [
        f"from {method['dynamic_degree'][0]:.2f} to {method['dynamic_degree'][-1]:.2f} with {_short(method)}"
        for method in summary["methods"].values()
    ]
    page = render_page(
        "demo.html.j2",
        kind="tiny world",
        commit=summary["commit"],
        headline=summary_headline(summary),
        motion=f"From the first to the last segment, dynamic degree goes {', '.join(motion)}.",
        count=len(arms[0].prompts),
        fps=FPS,
        methods=methods,
        players=players(methods, videos, SHOWN),
        stops=stops,
        charts=curves.charts,
        script=curves.script | {"horizon": HORIZON / FPS},
        table=metric_table(evaluation, methods),
        pairs=[],
        horizons=None,
        skipped=evaluation["skipped"],
        notes={},
        seconds=summary["seconds"],
        settings=settings,
    )
    write_atomic(Path(path), page)


def horizon_videos(videos: Tensor, judged: Sequence[Mapping[str, Any]], stops: Sequence[float]) -> Iterator[PageVideo]:
    """Yield videos [B T 3 H W] in [0, 1] with their curves by horizon; the first SHOWN with all of their pixels."""
    for index, result in enumerate(judged):
        columns = result["curves"]
        rows = [
            {"second": horizon * HORIZON / FPS} | {key: values[horizon] for key, values in columns.items()}
            for horizon in range(min(map(len, columns.values())))
        ]
        clip = None
        if index < SHOWN:
            pixels = (rearrange(videos[index], "t c h w -> t h w c") * 255).round().to(torch.uint8).numpy()
            plan = ClipPlan(*pixels.shape[1:3], len(pixels) / FPS, FPS, stops, 0)
            clip = make_clip(array_frames(pixels, FPS), plan)
        yield PageVideo(result["name"], result["prompt"], rows, clip)


def summary_headline(summary: Mapping[str, Any]) -> str:
    """State the result in one sentence, which claims no more than the numbers show."""
    methods = summary["methods"]
    last = {name: method["validity"][-1] for name, method in methods.items()}
    segments = len(next(iter(methods.values()))["validity"])
    when = f"fter {seconds_at(segments)}, {segments}x the teacher's horizon,"
    if not {OURS, BASELINE} <= last.keys():
        shares = [f"{percent(share)} with {_short(methods[name])}" for name, share in last.items()]
        return f"A{when} the share of valid frames is {', '.join(shares)}."
    ours, baseline = last[OURS], last[BASELINE]
    facts = f"{percent(ours)} of frames are valid with {_short(methods[OURS])}"
    facts += f", {percent(baseline)} with {_short(methods[BASELINE])}"
    if ours < baseline - LEVEL:
        return f"Not as hoped: a{when} only {facts}."
    if ours <= baseline + LEVEL:
        return f"No clear difference: a{when} {facts}."
    if ours < HELD:
        return f"Better, but not held: a{when} {facts}."
    first, final = (methods[OURS]["dynamic_degree"][segment] for segment in (0, -1))
    if final < MOVING * first:
        return f"Held, but slowing: a{when} {facts}; {percent(final / first)} of the former's motion is left."
    return f"A{when} {facts}."


def summary_table(summary: Mapping[str, Any]) -> str:
    """Format the numbers at 1, 2, 4, 8, 16 teacher horizons as plain text."""
    methods = summary["methods"]
    segments = milestones(len(next(iter(methods.values()))["validity"]))
    captions = {curve.key: f"{curve.label} ({curve.best} is best)" for curve in CURVES}
    width = max(len(text) for text in [*methods, *captions.values()]) + 2
    lines = [f"{name:<{width}}{method['title']}; {method['videos']} videos" for name, method in methods.items()]
    lines += ["", " " * width + "".join(f"{f'{segment}x':>8}" for segment in segments)]
    lines += [" " * width + "".join(f"{seconds_at(segment):>8}" for segment in segments)]
    for curve in CURVES:
        lines += [captions[curve.key]]
        for name, method in methods.items():
            numbers = "".join(f"{method[curve.key][segment - 1]:>8.3f}" for segment in segments)
            lines += [f"{'  ' + name:<{width}}{numbers}"]
    return "\n".join(lines)


def _short(method: Mapping[str, Any]) -> str:
    return method["title"].partition(":")[0]
