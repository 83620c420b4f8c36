"""Rows of curves of a steady video, of which a test changes some."""

import math

from evaluation.second_curves import CURVES, Row, VideoCurves

LEVELS = {"luma": 0.4, "contrast": 0.5, "clipped": 0.01, "saturation": 0.2, "sharpness": 0.1, "motion": 0.05}
LEVELS |= {"validity": 0.9, "still": 0.0}
FOLLOWED = {"luma": float, "contrast": math.log2, "clipped": float, "saturation": math.log2, "sharpness": math.log2}
"""Levels whose change is followed, and the scale on which it is."""


def rows(count: int, **changed) -> list[Row]:
    """Make rows of a steady video; `changed` gives a curve's value of every second.

    Levels change because the things in view do, unless `changed` gives NAME_change, too.
    """
    steady = dict.fromkeys(CURVES, 0.0) | LEVELS | {f"{name}_change": 0.0 for name in FOLLOWED} | {"unlike": None}
    for name in FOLLOWED.keys() & changed.keys():
        levels = [FOLLOWED[name](value) for value in changed[name]]
        steps = [after - before for before, after in zip([levels[0], *levels], levels, strict=False)]
        changed = {f"{name}_change": steps} | changed
    return [
        {"second": i, "frames": 8} | steady | {name: values[i] for name, values in changed.items()}
        for i in range(count)
    ]


def video(seconds: list[Row], repeated: float = 0.0, moving: int = 8, pairs: int = 8) -> VideoCurves:
    return VideoCurves(seconds, 8 * len(seconds), repeated, moving, pairs)
