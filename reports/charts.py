"""Lay out charts of lines over time: paths, ticks and marks that templates put into an SVG and around it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WIDTH, HEIGHT = 1000, 100
"""Units of a chart's view box, which is stretched to the page; strokes and text are not."""
_ROOM = 0.06
"""Share of the height that stays free above and below the lines."""


class Style(NamedTuple):
    """Holds colours and dashes of a method in charts, legends and tables, distinct without colour, too."""

    light: str
    """Colour on a light page."""
    dark: str
    """Colour on a dark page."""
    dashes: str
    """`stroke-dasharray` of SVG."""


STYLES = (
    Style("#0b62b8", "#62b0ff", "none"),
    Style("#c2410c", "#ff9a66", "8 4"),
    Style("#5c636e", "#a2a9b4", "3 3"),
    Style("#7a3fb0", "#c79bf2", "10 4 2 4"),
    Style("#1f7a4d", "#6fcf9b", "10 2 2 2 2 2"),
    Style("#9a6a00", "#e0b252", "16 4"),
    Style("#b3296f", "#f28bbb", "5 2"),
    Style("#0f7c86", "#6cc9d1", "2 5"),
)


class ChartLine(NamedTuple):
    """Holds values of equal stretches of time, None for a gap, the number of their style, and the band's edges."""

    values: Sequence[float | None]
    tone: int
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


class Mark(NamedTuple):
    """Labels a moment."""

    time_s: float
    label: str


class Drawn(NamedTuple):
    """Holds a line in the chart's units: the `d` of its path and of its band (may be empty), and its style's number."""

    line: str
    band: str
    tone: int


@dataclass(frozen=True)
class Chart:
    """Holds a laid-out chart. Positions of ticks and marks are percent of the plot, from the left or from below."""

    key: str
    label: str
    unit: str
    note: str
    """A sentence below the chart; may be empty."""
    views: Sequence[Sequence[Drawn]]
    """Lines of each view: of all videos first, then of each shown video."""
    ticks: Sequence[tuple[float, str]]
    times: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class TimeAxis:
    """Describes the time that all charts of a page share."""

    step_s: float
    """Seconds of a stretch with one value; its point is in its middle."""
    end_s: float
    marks: Sequence[Mark] = ()
    """Dotted verticals."""


@dataclass(frozen=True)
class ChartText:
    """Names a curve, and bounds its vertical axis."""

    key: str
    label: str
    unit: str
    bounds: tuple[float, float] | None = None
    """Ends of the vertical axis; None takes those of the values."""
    least: float = 0.1
    """Shortest vertical axis where it goes by the values: less change than this looks like none."""
    note: str = ""


def line_chart(text: ChartText, views: Sequence[Sequence[ChartLine]], axis: TimeAxis) -> Chart:
    """Lay out the same curve's lines in several views on one vertical axis."""
    low, high = text.bounds or _range(views, text.least)
    room = (high - low) * _ROOM
    bottom, top = low - room, high + room
    drawn = [[_drawn(line, axis, bottom, top) for line in view] for view in views]
    ticks = [(100 * (value - bottom) / (top - bottom), f"{value:g}") for value in _round_values(low, high, 4)]
    times = [(100 * time / axis.end_s, f"{time:g} s") for time in _round_values(0, axis.end_s, 6)]
    marks = [(100 * mark.time_s / axis.end_s, mark.label) for mark in axis.marks if mark.time_s <= axis.end_s]
    return Chart(text.key, text.label, text.unit, text.note, drawn, ticks, times, marks)


def _range(views: Sequence[Sequence[ChartLine]], least: float) -> tuple[float, float]:
    """Return the ends of the vertical axis: those of all values, 0 where they come near it."""
    lines = [line for view in views for line in view]
    values = [v for line in lines for column in (line.values, line.low, line.high) for v in column if v is not None]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    if 0 <= low < max(least, 0.4 * high):
        low = 0.0
    missing = least - (high - low)
    if missing > 0:
        low, high = (low, high + missing) if low == 0 else (low - missing / 2, high + missing / 2)
    return low, high


def _round_values(low: float, high: float, count: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    near = 1e-9 * (high - low)
    return [round(float(value), 12) for value in values if low - near <= value <= high + near]


def _drawn(line: ChartLine, axis: TimeAxis, bottom: float, top: float) -> Drawn:
    def point(index: int, value: float) -> str:
        x = WIDTH * (index + 0.5) * axis.step_s / axis.end_s
        return f"{x:.1f} {HEIGHT * (top - value) / (top - bottom):.2f}"

    strokes = ["M" + "L".join(point(i, line.values[i]) for i in run) for run in _runs(line.values)]
    # A stretch of one point has no length: only the round ends of a line of zero length show it.
    path = "".join(stroke if "L" in stroke else f"{stroke}h0" for stroke in strokes)
    band = ""
    for run in _runs(line.low):
        there, back = [point(i, line.high[i]) for i in run], [point(i, line.low[i]) for i in reversed(run)]
        band += "M" + "L".join(there + back) + "Z"
    return Drawn(path, band, line.tone)


def _runs(values: Sequence[float | None]) -> Iterator[list[int]]:
    """Yield the positions of values between gaps."""
    run: list[int] = []
    for i, value in enumerate(values):
        if value is not None and math.isfinite(value):
            run.append(i)
        elif run:
            yield run
            run = []
    if run:
        yield run
