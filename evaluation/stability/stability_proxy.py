"""Estimate Visual Stability from the curves of a video: VS-proxy, 0 to 100, deterministic, never a judge's own score.

Every second loses points, up to five, by how far it is from the beginning of its shot in exposure, colour, texture and
motion; the video loses points if it repeats itself, and if it looks unlike real ones where a band of those is given.
The cut points were calibrated on real films changed by `evaluation.stability.degradations`; docs/guide/stability.md has
the measurements.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy

from evaluation.second_curves import REFERENCE_S, Row, VideoCurves
from evaluation.stability.asked_changes import AskedChanges, asked_changes

ALARM = 80.0
"""VS-proxy below which a video counts as unstable: one of the five points is lost."""
POINTS = 5
CUT_POINTS = {
    "luma": (0.07, 0.10, 0.16, 0.22, 0.28, 0.34),
    "contrast": (0.4, 0.6, 1.0, 1.4, 1.8, 2.2),
    "contrast_loss": (0.2, 0.5, 0.9, 1.3, 1.7, 2.1),
    "clipped": (0.06, 0.12, 0.20, 0.30, 0.40, 0.50),
    "saturation": (0.38, 0.6, 1.0, 1.4, 1.8, 2.2),
    "texture": (0.6, 0.9, 1.4, 1.9, 2.4, 2.9),
    "validity": (0.25, 0.35, 0.50, 0.65, 0.80, 0.95),
    "still": (0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    "slowdown": (4.5, 5.0, 5.5, 6.0, 6.5, 7.0),
    "repeated": (0.0, 0.15, 0.30, 0.45, 0.60, 0.75),
    "unlike": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
}
"""Deviations up to which nothing is lost, then those at which one, two, ... five points are; in proportion between.

`luma`, `clipped`, `validity` and `still` are in the units of their curves, `repeated` and `unlike` are shares of the
video, the others are doublings."""
COMPONENTS = {
    "exposure": ("luma", "contrast", "clipped"),
    "colour": ("saturation",),
    "texture": ("texture", "validity"),
    "motion": ("still", "slowdown"),
    "repetition": ("repeated",),
    "reality": ("unlike",),
}
"""Deviations that each component joins."""
_ASKED_LIGHT = 4.0
"""Factor on the cut points of exposure and colour where the prompt asks for a change of light, in its direction."""
_LIGHT = COMPONENTS["exposure"] + COMPONENTS["colour"]
NEW_CONTENT = {"luma": 0.15, "contrast": 0.8, "clipped": 0.15, "saturation": 0.8, "texture": 0.8}
"""Deviations that other things in view explain at most, where the things that stay in view have not changed."""
_ALL_NEW = 0.25
"""Diagonals that a picture moves until it may show other things entirely. Asked-for camera moves double it."""
_OF_VIDEO = ("repeated", "unlike")
"""Deviations of the whole video."""
_OF_SECONDS = [name for names in COMPONENTS.values() for name in names if name not in _OF_VIDEO]
_CUT = 0.5
_LEAST_CONTRAST, _LEAST_SHARPNESS, _LEAST_SATURATION = 0.05, 0.002, 0.01
"""Levels below which a ratio would measure noise."""
_LEAST_MOTION = 0.001
"""Diagonals per second that are added to both speeds of a ratio: slower motion counts as none."""
_USUAL_STILL = 0.5
"""Share of held frames that a shot may begin with, as drawn animation does; a shot that begins frozen loses points."""
_NORM = 3
"""Exponent by which points of several deviations are joined: nearly the largest, yet each counts."""
_SCENE_S = 1.0
"""Seconds around the planned start of a scene in which its cut may be."""


class Stability(NamedTuple):
    """Hold the proxy of a video and the points, 0 to 5, that each component takes off."""

    vs_proxy: float | None
    """0 to 100, in tenths: 20 times the points that are left; None for a single frame, which cannot change."""
    exposure: float
    colour: float
    texture: float
    motion: float
    repetition: float
    reality: float | None
    """None where the video was not compared with real ones: then the proxy sees changes only."""


def stability_proxy(curves: VideoCurves, prompt: str = "", scene_starts_s: Sequence[float] = ()) -> Stability:
    """Estimate the Visual Stability of a video from its curves and from what its prompt asks for.

    Half of a loss is its mean over the seconds, half its worst two seconds. Behind a cut that was asked for, by the
    prompt or by `scene_starts_s`, the comparison begins anew. Raises ValueError where `curves` has no rows.
    """
    if not curves.rows:
        raise ValueError("a video without seconds has no stability")
    asked = asked_changes(prompt)
    losses = {name: [] for name in _OF_SECONDS}
    for shot in shots(curves.rows, asked, scene_starts_s):
        for name, points in shot_losses(shot, asked).items():
            losses[name] += points
    lost = {name: _over_time(points) for name, points in losses.items()}
    compared = [row["unlike"] for row in curves.rows if row["unlike"] is not None]
    lost |= {
        "repeated": float(_points("repeated", curves.repeated)),
        "unlike": float(_points("unlike", _mean(compared))),
    }
    total = _over_time([_join(second) for second in zip(*losses.values(), strict=True)])
    left = max(0.0, POINTS - _join([total, *(lost[name] for name in _OF_VIDEO)]))
    components = {component: _join([lost[name] for name in names]) for component, names in COMPONENTS.items()}
    changes = any(row["motion"] is not None for row in curves.rows)
    # A hundredth of a point would rank videos whose difference nobody sees.
    vs_proxy = round(left * 100 / POINTS, 1) if changes else None
    return Stability(vs_proxy=vs_proxy, **components | ({} if compared else {"reality": None}))


def shots(rows: Sequence[Row], asked: AskedChanges, scene_starts_s: Sequence[float]) -> list[list[Row]]:
    """Divide the seconds at the cuts that were asked for. A second with such a cut shows two shots and is left out.

    A planned start of which no cut is seen, as of a dissolve, divides all the same.
    """
    changing = {i for i, row in enumerate(rows) if row["cut"] is not None and row["cut"] >= _CUT}
    asked_for: set[int] = set()
    for start in (start for start in scene_starts_s if 0 < start < rows[-1]["second"] + 1):
        near = {i for i in changing if rows[i]["second"] - _SCENE_S <= start < rows[i]["second"] + 1 + _SCENE_S}
        asked_for |= near or {max(i for i, row in enumerate(rows) if row["second"] <= start)}
    others = sorted(changing - asked_for)
    asked_for |= set(others[: min(len(others), asked.cuts)])
    divided: list[list[Row]] = [[]]
    for i, row in enumerate(rows):
        if i in asked_for:
            divided.append([])
        else:
            divided[-1].append(row)
    return [shot for shot in divided if shot] or [list(rows)]


def shot_losses(rows: Sequence[Row], asked: AskedChanges) -> dict[str, list[float]]:
    """Compute the points that every second loses by each deviation from the first two seconds of its shot.

    A level that changes because other things come into view has not drifted: only as much of it counts as the things
    that stay in view have changed in the same direction. Once a picture shows other things entirely, that excuses up
    to NEW_CONTENT.
    """
    start = rows[:REFERENCE_S]
    base = {name: _level(start, name) for name in ("luma", "contrast", "clipped", "saturation", "validity", "motion")}
    base["texture"] = _mean(_texture(row) for row in start)
    base["still"] = min(_level(start, "still"), _USUAL_STILL)
    followed = {name: _followed(rows, name) for name in NEW_CONTENT}
    losses: dict[str, list[float]] = {name: [] for name in _OF_SECONDS}
    moved, second = 0.0, rows[0]["second"]
    for number, row in enumerate(rows):
        moved, second = moved + (row["motion"] or 0.0) * (row["second"] - second), row["second"]
        new = min(1.0, moved / _ALL_NEW) * (2 if asked.camera else 1)
        change = min(row["luma"] - base["luma"], followed["luma"][number])
        is_asked = asked.darker if change < 0 else asked.brighter
        for name, deviation in _deviations(row, base).items():
            if name in NEW_CONTENT:
                seen, excused = followed[name][number], NEW_CONTENT[name] * new
                agreed = min(deviation, max(seen, 0.0)) if deviation > 0 else max(deviation, min(seen, 0.0))
                deviation = max(deviation - excused, min(deviation + excused, agreed))
            excess = abs(deviation) / (_ASKED_LIGHT if is_asked and name in _LIGHT else 1.0)
            table = "contrast_loss" if name == "contrast" and deviation < 0 else name
            losses[name].append(float(_points(table, excess)))
    return losses


def _followed(rows: Sequence[Row], name: str) -> numpy.ndarray:
    """Add up how the things in view have changed since the first two seconds of the shot, by the middle of each row."""
    parts = [row["sharpness_change"] - row["contrast_change"] if name == "texture" else row[f"{name}_change"]
             for row in rows]  # fmt: skip
    middles = numpy.cumsum(parts) - numpy.array(parts) / 2
    return middles - middles[:REFERENCE_S].mean()


def _deviations(row: Row, base: dict[str, float]) -> dict[str, float]:
    """Compare a second with the levels of its shot's beginning; a second without pairs of frames deviates by 0."""
    values = {name: base[name] if row[name] is None else row[name] for name in ("validity", "still", "motion")}
    return {
        "luma": row["luma"] - base["luma"],
        "contrast": _doublings(row["contrast"], base["contrast"], _LEAST_CONTRAST),
        "clipped": row["clipped"] - base["clipped"],
        "saturation": _doublings(row["saturation"], base["saturation"], _LEAST_SATURATION),
        "texture": _texture(row) - base["texture"],
        "validity": max(0.0, base["validity"] - values["validity"]),
        "still": max(0.0, values["still"] - base["still"]),
        "slowdown": max(0.0, _doublings(base["motion"], values["motion"], _LEAST_MOTION)),
    }


def _doublings(value: float, base: float, least: float) -> float:
    return math.log2((value + least) / (base + least))


def _texture(row: Row) -> float:
    """Return sharpness in doublings, by the contrast it is seen at: less light alone does not change it."""
    return math.log2((row["sharpness"] + _LEAST_SHARPNESS) / (row["contrast"] + _LEAST_CONTRAST))


def _points(name: str, deviation: float) -> numpy.ndarray:
    return numpy.interp(deviation, CUT_POINTS[name], range(POINTS + 1))


def _over_time(points: Sequence[float]) -> float:
    """Join points over the seconds: half the mean, half the worst two seconds in a row."""
    values = numpy.array(points)
    windows = numpy.convolve(values, [0.5, 0.5], "valid") if len(values) > 1 else values
    return float((values.mean() + windows.max()) / 2)


def _join(points: Iterable[float]) -> float:
    return min(float(POINTS), sum(value**_NORM for value in points) ** (1 / _NORM))


def _level(rows: Iterable[Row], name: str) -> float:
    return _mean(row[name] for row in rows if row[name] is not None)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
