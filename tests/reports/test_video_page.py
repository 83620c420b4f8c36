"""Curves of a page: means over the videos that are long enough, joined where there are too many points."""

import numpy
import pytest

from evaluation.bootstrap import bootstrap_mean, interval_curve
from reports.charts import ChartText
from reports.video_page import MOST_POINTS, PageCurve, PageMethod, PageVideo, curve_set, players

METHOD = PageMethod("a", "a", 0)
CURVE = PageCurve(ChartText("luma", "brightness", ""))


def video(values, name="v", prompt=None):
    return PageVideo(name, prompt, [{"second": second, "luma": value} for second, value in enumerate(values)])


def test_the_mean_is_over_the_videos_that_are_that_long_and_the_others_follow():
    videos = {"a": [video([0.0, 0.5, 1.0]), video([1.0, None])]}
    script = curve_set([CURVE], [METHOD], videos, 2, 1.0).script
    assert script["values"]["luma"] == [[[0.5, 0.5, 1.0]], [[0.0, 0.5, 1.0]], [[1.0, None, None]]]
    assert (script["seconds"], script["step"], script["speed"]) == (3.0, 1.0, 1)


@pytest.mark.parametrize(("join", "expected"), [(numpy.nanmean, 0.5), (numpy.nanmax, 1.0)])
def test_an_hour_is_joined_to_few_points(join, expected):
    curves = curve_set(
        [PageCurve(CURVE.text, join)], [METHOD], {"a": [video([float(i % 2) for i in range(3601)])]}, 1, 1.0
    )
    (line,) = curves.script["values"]["luma"][0]
    assert len(line) <= MOST_POINTS and curves.script["step"] == 7 and line[1] == pytest.approx(expected, abs=0.08)
    assert curves.script["seconds"] == 3601 and curves.script["speed"] == 16


def test_a_method_with_fewer_videos_leaves_its_place_empty():
    methods = [METHOD, PageMethod("b", "b", 1)]
    videos = {"a": [video([0.1], "x", "sea"), video([0.2], "y", "sky")], "b": [video([0.3], "x")]}
    rows = players(methods, videos, 4)
    assert [(row["title"], len(row["cells"])) for row in rows] == [("sea", 2), ("sky", 1)]
    assert curve_set([CURVE], methods, videos, 4, 1.0).script["values"]["luma"][2] == [[0.2], []]


def test_an_interval_by_whole_videos_agrees_with_that_of_a_number():
    values = numpy.random.default_rng(0).random((12, 3))
    mean, low, high = interval_curve(values)
    for point in range(3):
        one = bootstrap_mean(list(values[:, point]))
        assert mean[point] == pytest.approx(one.mean)
        assert (low[point], high[point]) == pytest.approx((one.low, one.high), abs=0.02)


def test_an_interval_of_nothing_is_nothing_and_that_of_one_video_has_no_width():
    mean, low, high = interval_curve(numpy.array([[0.5, numpy.nan]]))
    assert (mean[0], low[0], high[0]) == (0.5, 0.5, 0.5) and numpy.isnan([mean[1], low[1], high[1]]).all()
