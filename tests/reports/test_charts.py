"""Charts: every value lies inside the plot, at the middle of its time, and gaps stay gaps."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.charts import HEIGHT, WIDTH, ChartLine, ChartText, Mark, TimeAxis, line_chart

TEXT = ChartText("luma", "brightness", "0 to 1")


def points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)]


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_every_value_has_a_point_in_the_plot_at_the_middle_of_its_time(values):
    chart = line_chart(TEXT, [[ChartLine(values, 0)]], TimeAxis(0.5, 0.5 * len(values)))
    drawn = points(chart.views[0][0].line)
    known = [i for i, value in enumerate(values) if value is not None]
    assert [x for x, _ in drawn] == pytest.approx([WIDTH * (i + 0.5) / len(values) for i in known], abs=0.06)
    assert all(0 <= y <= HEIGHT for _, y in drawn)
    runs = sum(i not in (j + 1 for j in known) for i in known)
    assert chart.views[0][0].line.count("M") == runs
    assert all(0 <= percent <= 100 for percent, _ in (*chart.ticks, *chart.times))


def test_larger_values_are_higher_and_all_views_share_an_axis():
    chart = line_chart(TEXT, [[ChartLine([0.2, 0.8], 0)], [ChartLine([0.2, 0.2], 0)]], TimeAxis(1, 2))
    (_, low), (_, high) = points(chart.views[0][0].line)
    assert high < low and points(chart.views[1][0].line)[0][1] == low


def test_a_band_runs_there_and_back():
    line = ChartLine([1.0, 2.0, None, 4.0], 3, [0.5, 1.5, None, 3.5], [1.5, 2.5, None, 4.5])
    (drawn,) = line_chart(TEXT, [[line]], TimeAxis(1, 4)).views[0]
    assert drawn.tone == 3 and drawn.band.count("Z") == 2 and len(points(drawn.band)) == 6


def test_a_single_point_is_a_stroke_of_no_length():
    (drawn,) = line_chart(TEXT, [[ChartLine([None, 0.5, None], 0)]], TimeAxis(1, 3)).views[0]
    assert drawn.line.endswith("h0") and drawn.line.count("M") == 1


def test_what_hardly_changes_looks_flat_and_bounds_are_kept():
    flat = line_chart(TEXT, [[ChartLine([0.500, 0.501], 0)]], TimeAxis(1, 2))
    (_, first), (_, last) = points(flat.views[0][0].line)
    assert abs(first - last) < 0.02 * HEIGHT
    bounded = ChartText("validity", "Validity", "", (0.0, 1.0))
    chart = line_chart(bounded, [[ChartLine([0.5, 0.5], 0)]], TimeAxis(1, 2))
    assert points(chart.views[0][0].line)[0][1] == pytest.approx(HEIGHT / 2)
    assert [label for _, label in chart.ticks] == ["0", "0.25", "0.5", "0.75", "1"]


def test_marks_within_the_time_are_kept():
    axis = TimeAxis(1, 4, (Mark(1.0, "teacher"), Mark(9.0, "training")))
    assert line_chart(TEXT, [[ChartLine([1.0] * 4, 0)]], axis).marks == [(25.0, "teacher")]


def test_no_value_at_all_has_a_chart():
    chart = line_chart(TEXT, [[ChartLine([None, None], 0), ChartLine([math.nan, None], 1)]], TimeAxis(1, 2))
    assert [drawn.line for drawn in chart.views[0]] == ["", ""]
