"""A film is read upright, in full-range RGB, with its times, whatever its tags; a bad one says why."""

from fractions import Fraction

import numpy
import pytest
from av.video.reformatter import Colorspace

from models.video_stream import UnreadableVideo, probe, stream_frames, upright
from tests.fakes.films import grey_ramp, write_film

RED = numpy.zeros((48, 64, 3), dtype=numpy.uint8)
RED[..., 0], RED[..., 1] = 220, 40


def pixels_of(path):
    return [frame.pixels for frame in stream_frames(path)]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709])
def test_colours_come_back_whatever_matrix_and_range_the_file_is_tagged_with(tmp_path, full_range, matrix):
    path = write_film(tmp_path / "x.mp4", [RED] * 3, full_range=full_range, matrix=matrix)
    for pixels in pixels_of(path):
        assert numpy.abs(pixels.astype(int) - RED).max() <= 4


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv422p10le"])
def test_levels_come_back_from_any_pixel_format(tmp_path, pixel_format):
    path = write_film(tmp_path / "x.mp4", grey_ramp(5, 20, 240), pixel_format=pixel_format)
    assert [round(float(pixels.mean())) for pixels in pixels_of(path)] == pytest.approx([20, 75, 130, 185, 240], abs=2)


@pytest.mark.parametrize("fps", [8, 23.976, Fraction(30000, 1001), 120])
def test_times_are_those_of_the_rate(tmp_path, fps):
    path = write_film(tmp_path / "x.mp4", grey_ramp(12, 0, 255), fps=fps)
    times = [frame.time_s for frame in stream_frames(path)]
    assert times == pytest.approx([i / float(fps) for i in range(12)], abs=2e-3)
    assert probe(path).fps == pytest.approx(float(fps), rel=1e-3)


def test_times_of_a_film_of_uneven_rate_are_its_own(tmp_path):
    given = [0.0, 0.1, 0.5, 0.6, 2.0, 2.05]
    path = write_film(tmp_path / "x.mp4", grey_ramp(6, 0, 255), times=given)
    assert [frame.time_s for frame in stream_frames(path)] == pytest.approx(given, abs=2e-3)


def test_sound_and_odd_sizes_change_nothing(tmp_path):
    path = write_film(tmp_path / "x.mp4", grey_ramp(4, 100, 100, (46, 34)), sound=True)
    assert [pixels.shape for pixels in pixels_of(path)] == [(46, 34, 3)] * 4


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
def test_a_rotation_turns_the_picture_by_quarters_counter_clockwise(degrees):
    pixels = numpy.arange(2 * 3 * 3, dtype=numpy.uint8).reshape(2, 3, 3)
    assert numpy.array_equal(upright(pixels, degrees), numpy.rot90(pixels, degrees // 90))


def test_one_frame_is_a_video(tmp_path):
    assert len(pixels_of(write_film(tmp_path / "x.mp4", [RED]))) == 1


@pytest.mark.parametrize("damage", ["text", "empty", "head", "cut"])
def test_what_is_no_whole_film_is_unreadable_by_name(tmp_path, damage):
    noise = numpy.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), dtype=numpy.uint8)
    whole = write_film(tmp_path / "whole.mkv", list(noise)).read_bytes()
    content = {"text": b"no film", "empty": b"", "head": whole[:200], "cut": whole[: len(whole) // 3]}[damage]
    if damage == "cut":
        mp4 = write_film(tmp_path / "whole.mp4", list(noise)).read_bytes()
        content = mp4[: len(mp4) // 3]
    path = tmp_path / ("bad.mp4" if damage == "cut" else "bad.mkv")
    path.write_bytes(content)
    with pytest.raises(UnreadableVideo, match=r"bad\."):
        pixels_of(path)


def test_a_matroska_file_that_ends_early_is_truncated_by_its_own_duration_and_an_uneven_one_is_whole(tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), dtype=numpy.uint8)
    whole = write_film(tmp_path / "whole.mkv", list(noise))
    assert probe(whole).declared_frames == 0 and probe(whole).expected_frames == 40
    assert len(pixels_of(whole)) == 40
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UnreadableVideo, match="truncated"):
        pixels_of(cut)
    uneven = write_film(tmp_path / "uneven.mkv", grey_ramp(4, 0, 255), times=[0.0, 0.1, 0.2, 9.0])
    assert len(pixels_of(uneven)) == 4
