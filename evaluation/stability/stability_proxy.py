"""Estimate Visual Stability from the curves of a video: VS-proxy, 0 to 100, deterministic, never a judge's own score.

Every second loses points, up to five, by how far it is from the beginning of its shot in exposure, colour, texture and
motion; the video loses points if it repeats itself. The cut points were calibrated on real films changed by
`evaluation.stability.degradations`; docs/guide/stability.md has the measurements.
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
    "luma": (0.10, 0.16, 0.22, 0.28, 0.34),
    "contrast": (0.5, 0.9, 1.3, 1.7, 2.1),
    "clipped": (0.12, 0.20, 0.30, 0.40, 0.50),
    "saturation": (0.6, 1.0, 1.4, 1.8, 2.2),
    "texture": (0.9, 1.4, 1.9, 2.4, 2.9),
    "validity": (0.25, 0.40, 0.55, 0.70, 0.85),
    "still": (0.2, 0.4, 0.6, 0.8, 1.0),
    "slowdown": (4.0, 4.5, 5.0, 5.5, 6.0),
    "repeated": (0.15, 0.30, 0.45, 0.60, 0.75),
}
"""Deviations at which one, two, ... five points are lost; in between, in proportion. `luma`, `clipped`, `validity`
and `still` are in the units of their curves, `repeated` is a share of the video, the others are doublings."""
COMPONENTS = {
    "exposure": ("luma", "contrast", "clipped"),
    "colour": ("saturation",),
    "texture": ("texture", "validity"),
    "motion": ("still", "slowdown"),
    "repetition": ("repeated",),
}
"""Deviations that each component joins."""
_ASKED_LIGHT = 4.0
"""Factor on the cut points of exposure and colour where the prompt asks for a change of light, in its direction."""
_NEW_CONTENT, _MOST_NEW = 1.5, 1.0
"""Growth of the cut points of what a picture looks like per diagonal that it has moved since its shot began, and its
limit: a picture that moves on shows other things, of other colours. Twice that where the prompt moves the camera."""
_APPEARANCE = ("luma", "contrast", "clipped", "saturation")
_CUT = 0.5
_LEAST_CONTRAST, _LEAST_SHARPNESS, _LEAST_SATURATION = 0.05, 0.002, 0.04
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

    vs_proxy: float
    """0 to 100: 20 times the points that are left."""
    exposure: float
    colour: float
    texture: float
    motion: float
    repetition: float


def stability_proxy(curves: VideoCurves, prompt: str = "", scene_starts_s: Sequence[float] = ()) -> Stability:
    """Estimate the Visual Stability of a video from its curves and from what its prompt asks for.

    Half of a loss is its mean over the seconds, half its worst two seconds. Behind a cut that was asked for, by the
    prompt or by `scene_starts_s`, the comparison begins anew. Raises ValueError where `curves` has no rows.
    """
    if not curves.rows:
        raise ValueError("a video without seconds has no stability")
    asked = asked_changes(prompt)
    losses = {name: [] for name in CUT_POINTS if name != "repeated"}
    for shot in shots(curves.rows, asked, scene_starts_s):
        for name, points in shot_losses(shot, asked).items():
            losses[name] += points
    lost = {name: _over_time(points) for name, points in losses.items()}
    lost["repeated"] = float(_points("repeated", curves.repeated))
    total = _over_time([_join(second) for second in zip(*losses.values(), strict=True)])
    left = max(0.0, POINTS - _join([total, lost["repeated"]]))
    components = {component: _join([lost[name] for name in names]) for component, names in COMPONENTS.items()}
    return Stability(vs_proxy=left * 100 / POINTS, **components)


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
    """Compute the points that every second loses by each deviation from the first two seconds of its shot."""
    start = rows[:REFERENCE_S]
    base = {name: _level(start, name) for name in ("luma", "contrast", "clipped", "saturation", "validity", "motion")}
    base["texture"] = _mean(_texture(row) for row in start)
    base["still"] = min(_level(start, "still"), _USUAL_STILL)
    losses: dict[str, list[float]] = {name: [] for name in CUT_POINTS if name != "repeated"}
    moved, second = 0.0, rows[0]["second"]
    for row in rows:
        moved, second = moved + (row["motion"] or 0.0) * (row["second"] - second), row["second"]
        for name, deviation in _deviations(row, base).items():
            allowance = _asked_allowance(name, row, base, asked) * _content_allowance(name, moved, asked)
            losses[name].append(float(_points(name, deviation / allowance)))
    return losses


def _deviations(row: Row, base: dict[str, float]) -> dict[str, float]:
    """Compare a second with the levels of its shot's beginning; a second without pairs of frames deviates by 0."""
    values = {name: base[name] if row[name] is None else row[name] for name in ("validity", "still", "motion")}
    return {
        "luma": abs(row["luma"] - base["luma"]),
        "contrast": abs(_doublings(row["contrast"], base["contrast"], _LEAST_CONTRAST)),
        "clipped": abs(row["clipped"] - base["clipped"]),
        "saturation": abs(_doublings(row["saturation"], base["saturation"], _LEAST_SATURATION)),
        "texture": abs(_texture(row) - base["texture"]),
        "validity": max(0.0, base["validity"] - values["validity"]),
        "still": max(0.0, values["still"] - base["still"]),
        "slowdown": max(0.0, _doublings(base["motion"], values["motion"], _LEAST_MOTION)),
    }


def _asked_allowance(name: str, row: Row, base: dict[str, float], asked: AskedChanges) -> float:
    """Return the factor on the cut points of a deviation: more than 1 where a change of light was asked for."""
    wanted = asked.darker if row["luma"] < base["luma"] else asked.brighter
    return _ASKED_LIGHT if wanted and name in COMPONENTS["exposure"] + COMPONENTS["colour"] else 1.0


def _content_allowance(name: str, moved: float, asked: AskedChanges) -> float:
    """Return the factor on the cut points of a deviation after a shot has moved by `moved` diagonals."""
    growth = min(_MOST_NEW, _NEW_CONTENT * moved) if name in _APPEARANCE else 0.0
    return 1 + growth * (2 if asked.camera else 1)


def _doublings(value: float, base: float, least: float) -> float:
    return math.log2((value + least) / (base + least))


def _texture(row: Row) -> float:
    """Return sharpness in doublings, by the contrast it is seen at: less light alone does not change it."""
    return math.log2((row["sharpness"] + _LEAST_SHARPNESS) / (row["contrast"] + _LEAST_CONTRAST))


def _points(name: str, deviation: float) -> numpy.ndarray:
    return numpy.interp(deviation, (0.0, *CUT_POINTS[name]), range(POINTS + 1))


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
