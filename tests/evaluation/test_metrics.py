import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import BANDS, SLOPE_POINTS, metrics, summarise, summarise_curve
from tests.fakes.steady_rows import rows, video


def test_every_metric_is_described_and_measured():
    assert set(summarise(video(rows(6)))) == set(metrics())
    assert [name for name, value in summarise(video(rows(6))).items() if value is None] == ["vs_proxy.reality"]
    assert None not in summarise(video(rows(6, unlike=[0.0] * 6))).values()


@given(slope=st.floats(-0.3, 0.3), count=st.integers(4, 90))
def test_a_ramp_has_its_slope_and_ends_and_a_flash_does_not_move_it(slope, count):
    ramp = [0.4 + slope * i / 60 for i in range(count)]
    assert summarise_curve("luma", rows(count, luma=ramp))["slope"] == pytest.approx(slope, abs=1e-9)
    end = max(1, round(0.15 * count))
    expected = abs(slope) * (count - end) / 60
    assert summarise_curve("luma", rows(count, luma=ramp))["ends"] == pytest.approx(expected, abs=1e-9)
    if count >= 20:
        flashed = [1.0 if i == count // 2 else value for i, value in enumerate(ramp)]
        assert summarise_curve("luma", rows(count, luma=flashed))["slope"] == pytest.approx(slope, abs=0.15)


def test_the_trend_of_a_film_of_ten_hours_is_that_of_its_ramp_in_little_memory():
    count = 30 * SLOPE_POINTS - 7
    curve = rows(count, luma=[0.2 + 0.5 * i / count for i in range(count)])
    tracemalloc.start()
    slope = summarise_curve("luma", curve)["slope"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert slope == pytest.approx(0.5 / count * 60, rel=1e-6) and peak < 100e6


@pytest.mark.parametrize("name", BANDS)
def test_a_steady_video_has_neither_trend_nor_deviation(name):
    assert set(summarise_curve(name, rows(10)).values()) == {0.0}


def test_a_collapse_shows_in_the_worst_window_and_the_time_outside_even_if_it_recovers():
    luma = [0.4, 0.4, 0.4, 0.9, 0.9, 0.9, 0.4, 0.4, 0.4, 0.4]
    summary = summarise_curve("luma", rows(10, luma=luma))
    assert summary["worst"] == pytest.approx(0.5) and summary["outside"] == pytest.approx(0.3)
    assert summary["ends"] == pytest.approx(0) and summary["slope"] == pytest.approx(0)


def test_relative_curves_deviate_by_shares_of_the_start():
    halved = summarise_curve("sharpness", rows(6, sharpness=[0.1, 0.1, 0.1, 0.05, 0.05, 0.05]))
    assert halved["worst"] == pytest.approx(0.5) and halved["ends"] == pytest.approx(0.5)


def test_what_a_single_frame_cannot_show_is_missing_and_not_zero():
    single = summarise(video(rows(1, motion=[None], validity=[None], still=[None], cut=[None]), pairs=0, moving=0))
    assert single["motion.slope"] is single["validity.worst"] is None
    assert single["moving_pairs"] is single["dynamic_degree"] is single["still"] is None
    assert single["luma.worst"] == 0 and single["cuts"] == 0


@pytest.mark.parametrize(("moving", "dynamic"), [(0, 0.0), (3, 0.0), (4, 1.0), (16, 1.0)])
def test_a_quarter_of_moving_pairs_makes_a_video_dynamic(moving, dynamic):
    assert summarise(video(rows(3), moving=moving, pairs=16))["dynamic_degree"] == dynamic


def test_cuts_are_counted_and_a_replay_takes_no_repeat_away():
    summary = summarise(video(rows(5, cut=[0.0, 0.6, 0.4, 0.5, 0.0]), repeated=0.2))
    assert summary["cuts"] == 2 and summary["no_repeat"] == 0
