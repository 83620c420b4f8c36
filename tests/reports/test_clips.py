"""Clips of a page: exact pixels of tiny videos, small films of others, at the time at which the player shows them."""

import base64
from io import BytesIO

import av
import numpy
import pytest
from PIL import Image

from models.video_stream import Frame, array_frames, stream_frames
from reports.clips import FILM_FRAMES, FILM_ROWS, SHEET_FRAMES, ClipPlan, make_clip
from tests.fakes.films import write_film
from tests.reports.judged import moving_square


def plan_of(video, fps, stops=(), most_bytes=1_000_000):
    return ClipPlan(*video.shape[1:3], len(video) / fps, fps, stops, most_bytes)


def picture_of(address):
    return numpy.asarray(Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))))


def film_frames(clip):
    with av.open(BytesIO(base64.b64decode(clip.source.partition(",")[2]))) as film:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]


def test_a_sheet_holds_every_pixel_of_every_frame():
    video = numpy.random.default_rng(0).integers(256, size=(100, 12, 10, 3), dtype=numpy.uint8)
    clip = make_clip(array_frames(video, 16.0), plan_of(video, 16.0, (0.0, 1.0, 5.5)))
    sheet = picture_of(clip.source)
    for i, frame in enumerate(video):
        row, column = divmod(i, clip.columns)
        assert (sheet[12 * row : 12 * row + 12, 10 * column : 10 * column + 10] == frame).all()
    assert (clip.frames, clip.fps) == (100, 16.0)
    assert [(picture_of(still) == video[i]).all() for still, i in zip(clip.stills, (0, 16, 88, 99), strict=True)]


def test_a_stop_behind_the_end_has_no_still_but_the_last_frame():
    video = moving_square(16, 12, 12)
    clip = make_clip(array_frames(video, 16.0), plan_of(video, 16.0, (0.5, 1.0, 8.0)))
    assert [(picture_of(still) == video[i]).all() for still, i in zip(clip.stills, (8, 15), strict=True)]


def test_a_film_is_small_even_and_in_time():
    video = moving_square(60, 250, 401)
    clip = make_clip(array_frames(video, 20.0), plan_of(video, 20.0, (1.0, 2.0)))
    frames = film_frames(clip)
    assert clip.height <= FILM_ROWS and clip.height % 2 == clip.width % 2 == 0
    assert clip.height / clip.width == pytest.approx(250 / 401, abs=0.01)
    assert clip.frames == len(frames) == 24 and clip.fps == 8.0 and len(clip.stills) == 3
    assert [time for time, _ in frames] == pytest.approx([i / 8 for i in range(24)], abs=1e-3)
    for time, pixels in frames:
        shown = video[min(59, int(numpy.ceil(time * 20 - 1e-6)))]
        assert abs(pixels[..., 0].mean() - shown[..., 0].mean()) < 3
        bright = numpy.argwhere(pixels[60, :, 0] > 210).mean() / clip.width
        assert bright == pytest.approx(numpy.argwhere(shown[80, :, 0] > 210).mean() / 401, abs=0.03)


def test_a_long_film_has_few_frames_over_all_of_its_time():
    video = moving_square(300, 64, 64)
    clip = make_clip(array_frames(video, 0.25), plan_of(video, 0.25))
    assert clip.frames == 300, "twenty minutes at a frame per four seconds need no thinning"
    fast = ClipPlan(64, 64, 1200.0, 24.0, (), 1_000_000)
    assert fast.rate == pytest.approx(FILM_FRAMES / 1200)
    assert ClipPlan(12, 12, 1200.0, 16.0, (), 0).rate == pytest.approx(SHEET_FRAMES / 1200)


def test_a_film_keeps_to_its_size_even_where_it_is_noise():
    video = numpy.random.default_rng(0).integers(256, size=(160, 96, 96, 3), dtype=numpy.uint8)
    clip = make_clip(array_frames(video, 8.0), plan_of(video, 8.0, most_bytes=60_000))
    assert len(base64.b64decode(clip.source.partition(",")[2])) < 1.5 * 60_000


def test_a_gap_shows_the_next_frame_for_as_long():
    pixels = numpy.arange(3, dtype=numpy.uint8)[:, None, None, None] * numpy.ones((1, 8, 8, 3), numpy.uint8)
    frames = [Frame(time, picture) for time, picture in zip((0.0, 1.0, 1.25), pixels, strict=True)]
    clip = make_clip(frames, ClipPlan(8, 8, 1.5, 4.0, (), 0))
    sheet = picture_of(clip.source)
    assert [int(sheet[0, 8 * i, 0]) for i in range(clip.frames)] == [0, 1, 1, 1, 1, 2]


def test_frames_that_a_clip_does_not_take_need_not_be_converted(tmp_path):
    video = moving_square(75, 64, 96)
    write_film(tmp_path / "a.mp4", video, 25)
    plan = plan_of(video, 25.0, (1.0,))
    spaced = list(stream_frames(tmp_path / "a.mp4", 1 / plan.rate))
    assert len(spaced) == 24 and [frame.time_s for frame in spaced[:4]] == pytest.approx([0.0, 0.16, 0.28, 0.4])
    assert make_clip(spaced, plan) == make_clip(stream_frames(tmp_path / "a.mp4"), plan)


def test_nothing_has_no_clip():
    with pytest.raises(ValueError, match="without frames"):
        make_clip([], ClipPlan(8, 8, 1.0, 4.0, (), 0))
