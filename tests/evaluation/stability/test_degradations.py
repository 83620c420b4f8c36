from itertools import pairwise

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.second_curves import VideoCurves, curves_of
from evaluation.stability.degradations import CUT_AT, KINDS, ONSET, crop, degrade
from models.video_stream import array_frames
from tests.fakes.real_footage import FPS, film_clip

LEVELS = (0.25, 0.5, 1.0)
HARMFUL = [name for name, kind in KINDS.items() if not kind.is_benign]


@pytest.fixture(scope="module")
def clip() -> numpy.ndarray:
    return film_clip("bunny", 40, seed=0)[:, ::2, ::2].copy()


def degraded(clip: numpy.ndarray, name: str, severity: float, seed: int = 0) -> numpy.ndarray:
    return numpy.stack(list(degrade(iter(clip), len(clip), KINDS[name], severity, seed)))


def curves(video: numpy.ndarray) -> VideoCurves:
    return curves_of(array_frames(video, FPS), FPS)


def last(video: numpy.ndarray, curve: str) -> float:
    return curves(video).rows[-1][curve]


@pytest.mark.parametrize("name", KINDS)
def test_severity_0_is_the_clip_and_any_other_keeps_its_shape_and_its_seed(name, clip):
    assert numpy.array_equal(degraded(clip, name, 0.0), clip)
    once, again = (degraded(clip, name, 0.6, seed=3) for _ in range(2))
    assert numpy.array_equal(once, again) and not numpy.array_equal(once, clip)
    assert once.shape == clip.shape and once.dtype == numpy.uint8


@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_kind_leaves_the_beginning_as_it_is(name, clip):
    kept = int(ONSET * len(clip))
    assert numpy.array_equal(degraded(clip, name, 1.0)[:kept], clip[:kept])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_shortest_clips_can_be_degraded(name, count, clip):
    assert len(degraded(clip[:count], name, 1.0)) == count


@given(severity=st.one_of(st.floats(max_value=-1e-6), st.floats(min_value=1 + 1e-6)))
def test_a_severity_outside_its_range_is_an_error(severity):
    with pytest.raises(ValueError, match="severity"):
        next(degrade([numpy.zeros((12, 12, 3), numpy.uint8)], 1, KINDS["luma_up"], severity))


@pytest.mark.parametrize(
    ("name", "curve", "sign"),
    [
        ("luma_up", "luma", 1),
        ("luma_down", "luma", -1),
        ("contrast_loss", "contrast", -1),
        ("clipping", "clipped", 1),
        ("saturation_burn", "saturation", 1),
        ("saturation_loss", "saturation", -1),
        ("noise", "sharpness", 1),
        ("sunset", "luma", -1),
    ],
)
def test_each_kind_moves_its_curve_further_the_more_severe_it_is(name, curve, sign, clip):
    values = [sign * last(degraded(clip, name, severity), curve) for severity in LEVELS]
    assert values == sorted(values) and values[-1] - values[0] > 0.03


@pytest.mark.parametrize("name", ["freeze", "stutter"])
def test_the_share_of_held_frames_grows_with_severity(name, clip):
    shares = []
    for severity in LEVELS:
        video = degraded(clip, name, severity)
        shares.append(numpy.mean([numpy.array_equal(*pair) for pair in pairwise(video)]))
    assert shares == sorted(set(shares)) and shares[0] > 0 and shares[-1] > 0.6


def test_repeat_replays_the_beginning(clip):
    video = degraded(clip, "repeat", 0.5)
    assert numpy.array_equal(video[21:], clip[:19])


def test_the_cut_comes_where_it_is_declared(clip):
    video = degraded(clip, "cut", 1.0)
    assert KINDS["cut"].scene_starts == (CUT_AT,)
    assert numpy.array_equal(video[:20], clip[:20])
    assert [row["second"] for row in curves(video).rows if row["cut"] > 0.5] == [2]


def test_a_crop_of_the_whole_is_the_picture_and_its_place_is_row_then_column():
    picture = numpy.zeros((40, 60, 3), numpy.uint8)
    picture[:20, 30:] = 255
    assert numpy.array_equal(crop(picture, 1.0, numpy.array([0.3, 0.8])), picture)
    assert crop(picture, 0.4, numpy.array([0.0, 1.0])).min() == 255
    assert crop(picture, 0.4, numpy.array([1.0, 1.0])).max() == 0
