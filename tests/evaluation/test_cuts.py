import numpy
import pytest

from evaluation.cuts import CutMeter
from models.video_stream import stream_frames
from tests.fakes.real_footage import film, film_clip

SHOTS = ("bunny", "fence", "bicycle")


def probabilities(frames) -> list[float]:
    meter = CutMeter()
    found = [p for pixels in frames for p in meter.add(pixels)]
    return found + meter.finish()


def cuts(values: list[float]) -> list[int]:
    return [number for number, value in enumerate(values) if value > 0.5]


def test_a_cut_is_more_likely_than_not_exactly_where_shots_meet():
    clips = [film_clip(shot, 120, seed=0)[:12, :, :96] for shot in SHOTS]
    values = probabilities(numpy.concatenate(clips))
    assert len(values) == 36 and cuts(values) == [12, 24]
    assert all(0 <= value <= 1 for value in values)


def test_the_cuts_of_a_real_film_are_found_and_a_single_shot_has_none():
    assert cuts(probabilities(frame.pixels for frame in stream_frames(film("bikes")))) == [30, 76, 137, 187, 242]
    assert cuts(probabilities(frame.pixels for frame in stream_frames(film("carphone_pristine")))) == []


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_every_frame_has_one_probability_and_the_newest_two_wait(count):
    meter, frames = CutMeter(), film_clip("fence", count, seed=0)
    waiting = [number + 1 - sum(len(known) for known in lists) for number, lists in _growing(meter, frames)]
    assert waiting == [min(2, number + 1) for number in range(count)]
    assert len(meter.finish()) == min(2, count)


def _growing(meter: CutMeter, frames: numpy.ndarray):
    lists = []
    for number, pixels in enumerate(frames):
        lists.append(meter.add(pixels))
        yield number, list(lists)


def test_a_gradual_change_of_light_is_no_cut():
    clip = film_clip("fence", 24, seed=0).astype(float)
    darker = clip * numpy.linspace(1, 0.3, 24)[:, None, None, None]
    assert cuts(probabilities(darker.astype(numpy.uint8))) == []
