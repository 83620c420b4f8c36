import numpy
import pytest

from evaluation.metrics import summarise_curve
from evaluation.second_curves import CURVES, VideoCurves, curves_of
from models.video_stream import array_frames
from tests.fakes.real_footage import film_clip

FPS = 8.0


def measured(video: numpy.ndarray, fps: float = FPS, row_s: float = 1.0) -> VideoCurves:
    return curves_of(array_frames(video, fps), fps, row_s)


def values(curves: VideoCurves, name: str) -> list[float | None]:
    return [row[name] for row in curves.rows]


@pytest.fixture(scope="module")
def clip() -> numpy.ndarray:
    return film_clip("fence", 48, seed=0)


@pytest.fixture(scope="module")
def curves(clip: numpy.ndarray) -> VideoCurves:
    return measured(clip)


def test_every_second_has_a_row_with_every_curve_and_the_rows_hold_every_frame(curves):
    assert values(curves, "second") == list(range(6))
    assert sum(values(curves, "frames")) == curves.frames == 48
    assert curves.pairs == 47
    assert all(None not in values(curves, name) for name in CURVES)


def test_the_same_video_gives_the_same_numbers_twice(clip, curves):
    assert measured(clip) == curves


def test_a_ramp_of_brightness_shows_its_slope_in_luma_alone(clip):
    dim = clip[:1] // 3 + 40
    per_frame = 0.5
    ramp = numpy.repeat(dim, 80, 0) + (per_frame * numpy.arange(80)[:, None, None, None]).astype(numpy.uint8)
    curves = measured(ramp)
    expected = per_frame / 255 * FPS * 60
    assert summarise_curve("luma", curves.rows)["slope"] == pytest.approx(expected, rel=0.03)
    for name in ("contrast", "clipped", "saturation", "sharpness"):
        assert summarise_curve(name, curves.rows)["slope"] == pytest.approx(0, abs=0.02), name


def test_a_frozen_clip_is_still_and_keeps_every_level(clip):
    frozen = measured(numpy.repeat(clip[:1], 32, 0))
    assert values(frozen, "still") == [1.0] * 4
    assert max(values(frozen, "motion")) < 1e-3 and frozen.moving_pairs == 0
    assert len(set(values(frozen, "luma"))) == 1
    assert max(values(frozen, "distance")) < 1e-6
    assert frozen.repeated == 0


def test_a_moving_clip_is_not_still_and_starts_at_no_distance_to_itself(curves):
    assert max(values(curves, "still")) == 0
    assert values(curves, "distance")[0] < min(values(curves, "distance")[2:])
    assert min(values(curves, "motion")) > 0


def test_held_frames_show_as_their_share(clip):
    held = clip[numpy.arange(48) // 2 * 2]
    assert numpy.mean(values(measured(held), "still")[1:]) == pytest.approx(0.5, abs=0.05)


def test_motion_is_counted_per_second_whatever_the_frame_rate(clip):
    slow, fast = (numpy.nanmean(values(measured(clip, fps), "motion")) for fps in (4.0, 8.0))
    assert fast == pytest.approx(2 * slow, rel=0.05)


def test_shorter_rows_hold_the_same_frames_and_the_reference_shrinks_with_them(clip, curves):
    fine = measured(clip, row_s=0.5)
    assert len(fine.rows) == 12 and fine.frames == 48
    pairs = [(fine.rows[2 * i]["luma"] + fine.rows[2 * i + 1]["luma"]) / 2 for i in range(6)]
    assert pairs == pytest.approx(values(curves, "luma"))
    assert values(fine, "distance") != values(curves, "distance")
    assert fine.repeated == curves.repeated


def test_a_single_frame_has_levels_and_no_motion(clip):
    single = measured(clip[:1])
    assert single.rows[0]["luma"] > 0
    assert all(single.rows[0][name] is None for name in ("motion", "validity", "still"))
    assert single.pairs == 0 and single.repeated == 0


def test_a_video_without_frames_has_no_curves():
    with pytest.raises(ValueError, match="frames"):
        curves_of([], FPS)


@pytest.mark.parametrize(
    ("colour", "luma", "saturation", "clipped"),
    [((0, 0, 0), 0, 0, 1), ((255, 255, 255), 1, 0, 1), ((128, 128, 128), 128 / 255, 0, 0), ((255, 0, 0), 0.299, 1, 0)],
)
def test_flat_pictures_have_the_levels_of_their_colour(colour, luma, saturation, clipped):
    video = numpy.broadcast_to(numpy.array(colour, dtype=numpy.uint8), (2, 24, 32, 3))
    row = measured(numpy.ascontiguousarray(video)).rows[0]
    assert row["luma"] == pytest.approx(luma, abs=0.003)
    assert row["saturation"] == pytest.approx(saturation) and row["clipped"] == clipped
    assert row["contrast"] == row["sharpness"] == 0
