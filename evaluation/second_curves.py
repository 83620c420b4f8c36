"""Turn the frames of a video into curves: one row of numbers per second, in memory that does not grow with length."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from evaluation.cuts import CutMeter
from evaluation.frame_statistics import (
    DYNAMIC_SPEED,
    Change,
    FrameStatistics,
    FrameView,
    colour_histogram,
    frame_statistics,
    histogram_distance,
    is_still,
    pair_statistics,
    thumbnail,
    view,
)
from evaluation.repetition import MOST, RATE, repeated_share
from models.video_stream import Frame
from rewards.flow.optical_flow import SMALLEST, DisFlow

PAIRS_PER_S = 8.0
"""Frames per second that optical flow looks at, as VBench's dynamic degree does."""
REFERENCE_S = 2
"""Seconds at the beginning that later ones are compared with."""

Row = dict[str, float | None]
"""Numbers of one second by curve; None where the second has no pair of frames.

Next to CURVES: NAME_change, the sum of `Change` over the pairs of the second, and unlike, 0 to 1, the mean distance to
the band of real videos, None without one."""


class SecondCurve(NamedTuple):
    """Describe a curve."""

    label: str
    unit: str
    relative: bool
    """Deviations from the first seconds count as a share of the level there, not as a difference."""


CURVES = {
    "luma": SecondCurve("brightness", "mean luma, 0 to 1", False),
    "contrast": SecondCurve("contrast", "95th less 5th percentile of luma, 0 to 1", False),
    "clipped": SecondCurve("clipped pixels", "share darker than 5 or brighter than 250 of 255", False),
    "saturation": SecondCurve("saturation", "mean of largest less smallest channel, 0 to 1", False),
    "sharpness": SecondCurve("sharpness", "root mean squared gradient of luma", True),
    "motion": SecondCurve("motion", "mean optical flow, share of the diagonal per second", True),
    "validity": SecondCurve("flow validity", "share of pixels whose flow agrees both ways", False),
    "moving": SecondCurve("moving pairs", "share of pairs above VBench's threshold of a dynamic frame", False),
    "still": SecondCurve("repeated frames", "share of frames that equal the one before", False),
    "distance": SecondCurve("distance to the start", "Hellinger distance of colours to the first 2 s", False),
    "cut": SecondCurve("cut probability", "highest of the second", False),
}


@dataclass
class _Second:
    """Collects the frames of one second."""

    number: int
    start_s: float
    frames: list[FrameStatistics] = field(default_factory=list)
    moving: list[bool] = field(default_factory=list)
    motions: list[tuple[float, float]] = field(default_factory=list)
    """Speed in diagonals per second and validity of each pair of flow."""
    changes: list[Change] = field(default_factory=list)
    still: list[bool] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    unlike: list[float] = field(default_factory=list)
    cuts: list[float] = field(default_factory=list)

    def row(self) -> Row:
        """Average the second."""
        columns = zip(*self.frames, strict=True)
        means = {name: _mean(values) for name, values in zip(FrameStatistics._fields, columns, strict=True)}
        motions, validities = ([pair[i] for pair in self.motions] for i in (0, 1))
        row: Row = {"second": self.start_s, "frames": len(self.frames)} | means
        row |= {"motion": _mean(motions), "validity": _mean(validities), "still": _mean(self.still)}
        row |= {f"{name}_change": sum(getattr(c, name) for c in self.changes) for name in Change._fields}
        row["unlike"] = _mean(self.unlike)
        row |= {"moving": _mean(self.moving), "pairs": len(self.moving)}
        return row | {"distance": _mean(self.distances), "cut": max(self.cuts, default=None)}


@dataclass(frozen=True)
class VideoCurves:
    """Hold the curves of a video and the numbers of the whole of it."""

    rows: list[Row]
    frames: int
    repeated: float
    """Share of the video that replays an earlier stretch."""
    moving_pairs: int
    pairs: int


class CurveMeter:
    """Takes frames in order; call `add` for each, then `finish` once."""

    def __init__(self, fps: float, row_s: float = 1, unlike: Callable[[FrameView], float] | None = None) -> None:
        """`fps` chooses which frames the flow looks at: every round(fps / 8)-th.

        A row covers `row_s` seconds, and the reference two rows; repetition is sought in seconds all the same.
        `unlike` is that of the band of real videos, where there is one.
        """
        self.unlike = unlike
        self.row_s = row_s
        self.stride = max(1, round(fps / PAIRS_PER_S))
        self.flow, self.cuts = DisFlow(), CutMeter()
        self.rows: list[Row] = []
        self.open: list[_Second] = []
        """Seconds whose cuts are not all known yet; the last one still takes frames."""
        self.count = 0
        self.before: FrameView | None = None
        self.paired: tuple[float, FrameView] | None = None
        self.reference: list[numpy.ndarray] = []
        self.pictures: list[numpy.ndarray] = []
        self.picture_s, self.next_picture_s = max(1 / RATE, 1 / fps), 0.0

    def add(self, frame: Frame) -> None:
        """Measure the next frame."""
        seen, number = view(frame.pixels), int(frame.time_s / self.row_s)
        if not self.open or number > self.open[-1].number:
            self.open.append(_Second(number, number * self.row_s))
        second = self.open[-1]
        second.frames.append(frame_statistics(seen))
        if self.before is not None:
            second.still.append(is_still(self.before, seen))
        if self.count % self.stride == 0:
            self._measure_pair(second, frame.time_s, seen)
            histogram = colour_histogram(seen)
            if number < REFERENCE_S:
                self.reference.append(histogram)
            if self.unlike is not None:
                second.unlike.append(self.unlike(seen))
            second.distances.append(histogram_distance(numpy.mean(self.reference, axis=0), histogram))
        if frame.time_s >= self.next_picture_s:
            self._keep_picture(seen)
        self.before = seen
        self.count += 1
        self._note_cuts(self.cuts.add(seen.small))

    def finish(self) -> VideoCurves:
        """Return the curves. Raises ValueError where there were no frames."""
        if not self.count:
            raise ValueError("a video without frames has no curves")
        self._note_cuts(self.cuts.finish())
        self.rows += [second.row() for second in self.open]
        self.open = []
        return self.until(math.inf)

    def until(self, end_s: float) -> VideoCurves:
        """Return the curves of the first `end_s` seconds of a finished video, in whole rows."""
        rows = [row for row in self.rows if row["second"] + self.row_s <= end_s or row is self.rows[0]]
        pictures = self.pictures[: max(1, int(min(end_s / self.picture_s, len(self.pictures))))]
        pairs = sum(row["pairs"] for row in rows)
        moving = sum(row["moving"] * row["pairs"] for row in rows if row["pairs"])
        repeated = repeated_share(numpy.stack(pictures), 1 / self.picture_s)
        return VideoCurves(rows, sum(row["frames"] for row in rows), repeated, round(moving), pairs)

    def _measure_pair(self, second: _Second, time_s: float, seen: FrameView) -> None:
        before, self.paired = self.paired, (time_s, seen)
        if before is None or min(seen.small_grey.shape) < SMALLEST or time_s <= before[0]:
            return
        pair = pair_statistics(self.flow, before[1], seen)
        second.motions.append((pair.motion / (time_s - before[0]), pair.validity))
        second.changes.append(pair.change)
        second.moving.append(pair.fastest > DYNAMIC_SPEED)

    def _keep_picture(self, seen: FrameView) -> None:
        """Keep a picture for `repeated_share`; of a long video fewer per second."""
        self.pictures.append(thumbnail(seen))
        self.next_picture_s += self.picture_s
        if len(self.pictures) > MOST:
            self.pictures = self.pictures[::2]
            self.picture_s *= 2

    def _note_cuts(self, probabilities: list[float]) -> None:
        """Give probabilities to the seconds of their frames, and finish the seconds that have all of theirs."""
        for probability in probabilities:
            second = self.open[0]
            second.cuts.append(probability)
            if len(second.cuts) == len(second.frames) and len(self.open) > 1:
                self.rows.append(self.open.pop(0).row())


def curves_of(
    frames: Iterable[Frame], fps: float, row_s: float = 1, unlike: Callable[[FrameView], float] | None = None
) -> VideoCurves:
    """Measure a whole video, with the arguments of `CurveMeter`. Raises ValueError where it has no frames."""
    meter = CurveMeter(fps, row_s, unlike)
    for frame in frames:
        meter.add(frame)
    return meter.finish()


def _mean(values: Iterable[Any]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def finite(rows: Iterable[Row], name: str) -> Iterator[tuple[float, float]]:
    """Yield (second, value) of the rows in which curve `name` has a value."""
    for row in rows:
        if row[name] is not None:
            yield row["second"], row[name]
