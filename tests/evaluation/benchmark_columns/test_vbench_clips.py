"""A video is cut at its cuts and then every two seconds, as VBench-Long does; a short end borrows earlier frames."""

from itertools import pairwise

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.benchmark_columns.vbench_clips import LEAST_FRAMES, clip_spans, shot_spans, write_clips
from evaluation.video_tasks import VideoTask
from models.video_stream import UnreadableVideo, array_frames, probe, stream_frames
from tests.fakes.films import moving_texture, write_film

LENGTHS = st.integers(1, 60)


def task_of(path):
    return VideoTask("a", path.stem, path, None, path.parent / "rows")


@given(st.integers(0, 50), st.integers(1, 300), LENGTHS)
def test_clips_cover_a_shot_are_of_one_length_and_only_the_last_borrows(start, frames, length):
    spans = clip_spans(start, start + frames, length)
    assert spans[0][0] == start and spans[-1][1] == start + frames
    assert {behind - first for first, behind in spans} == {min(length, frames)}
    assert len(spans) == -(-frames // length)
    assert all(one[1] == other[0] for one, other in pairwise(spans[:-1]))


def test_a_cut_between_shots_separates_clips():
    one, other = moving_texture(40, 1.0), [255 - picture for picture in moving_texture(30, 1.0, seed=5)]
    assert shot_spans(array_frames(numpy.stack([*one, *other]), 16)) == [(0, 40), (40, 70)]
    assert shot_spans(array_frames(numpy.stack(one), 16)) == [(0, 40)]


@pytest.mark.parametrize("fps", [8, 16, 24])
def test_clips_are_two_seconds_of_the_video_at_its_own_rate(tmp_path, fps):
    pictures = moving_texture(5 * fps + 1, 1.0, (50, 66))
    path = write_film(tmp_path / "x.mp4", pictures, fps=fps)
    clips = write_clips(task_of(path), tmp_path / "clips", 2.0)
    infos = [probe(clip) for clip in clips]
    assert [info.declared_frames for info in infos] == [2 * fps] * 3
    assert {(info.fps, info.height, info.width) for info in infos} == {(float(fps), 50, 66)}
    first = next(stream_frames(clips[-1])).pixels.astype(int)
    assert numpy.abs(first - pictures[3 * fps + 1]).mean() < 6 < numpy.abs(first - pictures[3 * fps - 4]).mean()


def test_odd_sizes_lose_a_row_and_a_column(tmp_path):
    path = write_film(tmp_path / "x.mkv", moving_texture(8, 1.0, (51, 67)), fps=8, pixel_format="yuv444p")
    (clip,) = write_clips(task_of(path), tmp_path / "clips", 2.0)
    assert (probe(clip).height, probe(clip).width) == (50, 66)


def test_clips_of_an_earlier_call_are_kept_and_half_of_them_are_not(tmp_path):
    path = write_film(tmp_path / "x.mp4", moving_texture(24, 1.0), fps=8)
    (tmp_path / "clips.partial").mkdir()
    (tmp_path / "clips.partial" / "00000.mp4").write_text("half")
    clips = write_clips(task_of(path), tmp_path / "clips", 2.0)
    times = [clip.stat().st_mtime_ns for clip in clips]
    path.unlink()
    assert [clip.stat().st_mtime_ns for clip in write_clips(task_of(path), tmp_path / "clips", 2.0)] == times


def test_a_video_shorter_than_the_shortest_clip_is_unreadable(tmp_path):
    path = write_film(tmp_path / "x.mp4", moving_texture(LEAST_FRAMES - 1, 1.0), fps=8)
    with pytest.raises(UnreadableVideo):
        write_clips(task_of(path), tmp_path / "clips", 2.0)
    assert not (tmp_path / "clips").exists()
