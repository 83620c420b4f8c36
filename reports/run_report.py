"""Write the report of a demo run: summary.json, report.html in one file, and a table for the terminal.

It states only numbers of `evaluation.metrics`, and shows videos in the order in which they were generated.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from einops import rearrange

from models.atomic_files import write_atomic
from models.worlds.tiny_judge import TOLERANCE
from models.worlds.tiny_world import FPS, HORIZON
from reports.figures import (
    CURVES,
    ChartLine,
    MethodResult,
    check_methods,
    data_address,
    line_chart,
    milestones,
    percent,
    seconds_at,
    write_picture,
)
from reports.page import flat_settings, render_page
from rewards.object_motion import FASTEST_EXCESS, FROZEN, SLOWEST

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


def write_report(path: str | Path, summary: Mapping[str, Any], arms: Sequence[MethodResult]) -> None:
    """Write report.html: numbers of `summary`, frames of `arms`, nothing that lies outside the file."""
    check_methods(arms)
    if list(summary["methods"]) != [arm.name for arm in arms]:
        raise ValueError(f"the summary is of {list(summary['methods'])}, not of {[arm.name for arm in arms]}")
    segments = milestones(arms[0].segments)
    settings = dict(flat_settings(summary["settings"]))
    given = settings.get(TRAINING_FRAMES, "none")
    training_frames = None if given == "none" else int(given)
    shown = {arm.name: arm.videos[:SHOWN] for arm in arms}
    motion = [
        f"from {method['dynamic_degree'][0]:.2f} to {method['dynamic_degree'][-1]:.2f} with {_short(method)}"
        for method in summary["methods"].values()
    ]
    page = render_page(
        "report.html.j2",
        segments,
        headline=summary_headline(summary),
        motion=f"From the first to the last segment, dynamic degree goes {', '.join(motion)}.",
        summary=summary,
        settings=settings,
        arms=arms,
        prompts=arms[0].prompts[:SHOWN],
        strips={
            name: [[data_address(video[segment * HORIZON - 1], 8) for segment in segments] for video in videos]
            for name, videos in shown.items()
        },
        sheets={name: data_address(rearrange(videos, "b t c h w -> c (b h) (t w)")) for name, videos in shown.items()},
        charts={
            curve.key: line_chart(curve, [ChartLine(arm.metrics[curve.key], arm.tone) for arm in arms], training_frames)
            for curve in CURVES
        },
        player={
            "frames": arms[0].videos.shape[1],
            "height": arms[0].videos.shape[3],
            "width": arms[0].videos.shape[4],
            "fps": FPS,
            "horizon": HORIZON,
        },
        training_frames=training_frames,
        tolerance=TOLERANCE,
        slowest=SLOWEST,
        fastest_excess=FASTEST_EXCESS,
        frozen=FROZEN,
    )
    write_atomic(Path(path), page)


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
