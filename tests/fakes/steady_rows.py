"""Rows of curves of a steady video, of which a test changes some."""

from evaluation.second_curves import CURVES, Row, VideoCurves

LEVELS = {"luma": 0.4, "contrast": 0.5, "clipped": 0.01, "saturation": 0.2, "sharpness": 0.1, "motion": 0.05}
LEVELS |= {"validity": 0.9, "still": 0.0}


def rows(count: int, **changed) -> list[Row]:
    """Make rows of a steady video; `changed` gives a curve's value of every second."""
    steady = dict.fromkeys(CURVES, 0.0) | LEVELS
    return [
        {"second": i, "frames": 8} | steady | {name: values[i] for name, values in changed.items()}
        for i in range(count)
    ]


def video(seconds: list[Row], repeated: float = 0.0, moving: int = 8, pairs: int = 8) -> VideoCurves:
    return VideoCurves(seconds, 8 * len(seconds), repeated, moving, pairs)
