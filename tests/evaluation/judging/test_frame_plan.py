"""The judge sees the whole video: its first frame, its last, and others evenly between."""

import cv2
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.judging.frame_pictures import planned_pictures
from evaluation.judging.frame_plan import FramePlan
from models.video_stream import UnreadableVideo
from tests.fakes.judge_replies import short_film


@given(
    st.integers(1, 100_000), st.sampled_from([1, 12.5, 16, 23.976, 30, 60]), st.floats(0.01, 30), st.integers(1, 200)
)
def test_frames_are_distinct_even_and_span_the_video(frames, fps, rate, most):
    indices = FramePlan(rate, most, 360, 90).indices(fps, frames)
    gaps = numpy.diff(indices)
    assert indices[0] == 0 and 1 <= len(indices) <= min(most, frames)
    assert len(indices) == 1 or (indices[-1] == frames - 1 and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert len(indices) - 1 <= (frames - 1) / fps * rate + 1e-3


def test_one_frame_a_second_of_a_video_of_whole_seconds():
    assert FramePlan(1, 100, 360, 90).indices(16, 81) == (0, 16, 32, 48, 64, 80)


def test_a_long_video_keeps_to_the_largest_number():
    indices = FramePlan(1, 100, 360, 90).indices(16, 57_600)
    assert len(indices) == 100 and indices[-1] == 57_599


def test_no_frames_give_no_indices():
    assert FramePlan(1, 100, 360, 90).indices(16, 0) == ()


def test_pictures_are_the_planned_frames_at_their_times(tmp_path):
    film = short_film(tmp_path / "x.mp4", frames=9)
    pictures = planned_pictures(film, FramePlan(2, 100, 16, 90))
    assert [picture.index for picture in pictures] == [0, 2, 4, 6, 8]
    assert [picture.time_s for picture in pictures] == pytest.approx([0, 0.5, 1, 1.5, 2])
    for picture in pictures:
        shown = cv2.imdecode(numpy.frombuffer(picture.jpeg, numpy.uint8), cv2.IMREAD_COLOR)
        assert shown.shape == (16, 24, 3) and picture.pixels == 16 * 24
        assert shown.mean() == pytest.approx(10 * picture.index, abs=4)


def test_small_frames_are_not_enlarged_and_pictures_are_the_same_twice(tmp_path):
    film, plan = short_film(tmp_path / "x.mp4"), FramePlan(2, 3, 360, 90)
    first, again = planned_pictures(film, plan), planned_pictures(film, plan)
    assert [picture.record for picture in first] == [picture.record for picture in again]
    assert len({picture.record["sha256"] for picture in first}) == 3 and first[0].pixels == 32 * 48


def test_a_file_that_does_not_count_its_frames_is_judged_to_its_end(tmp_path):
    pictures = planned_pictures(short_film(tmp_path / "x.mkv", frames=9), FramePlan(1, 100, 360, 90))
    assert [picture.index for picture in pictures] == [0, 4, 8]


def test_a_video_of_one_frame_has_one_picture(tmp_path):
    assert len(planned_pictures(short_film(tmp_path / "x.mp4", frames=1), FramePlan(1, 9, 360, 90))) == 1


def test_a_file_that_is_no_video_is_unreadable(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(UnreadableVideo):
        planned_pictures(tmp_path / "x.mp4", FramePlan(1, 9, 360, 90))
