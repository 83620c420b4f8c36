"""The band of real videos: real frames lie inside, and frames as no real video has them outside."""

import cv2
import numpy
import pytest
import torch

from evaluation.frame_statistics import look, view
from evaluation.stability.real_band import RealBand, read_band, tiny_band
from models.errors import ConfigError
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video
from tests.fakes.films import moving_texture, write_film
from tests.fakes.real_footage import enlarged

SPOILT = {
    "dark": lambda frame: frame // 2,
    "grey": lambda frame: numpy.repeat(frame.mean(2, keepdims=True).astype(numpy.uint8), 3, 2),
    "blurred": lambda frame: cv2.GaussianBlur(frame, (0, 0), 16),
    "noisy": lambda frame: cv2.add(frame, numpy.random.default_rng(0).integers(0, 120, frame.shape, numpy.uint8)),
}


@pytest.fixture(scope="module")
def frames() -> list[numpy.ndarray]:
    """Draw a frame of a real video for every other prompt, of another seed than the band's."""
    generator = torch.Generator().manual_seed(99)
    return [enlarged(sample_video(prompt, 1, generator))[0] for prompt in PROMPTS[::2]]


def test_real_frames_lie_in_the_band_and_keep_their_place_when_they_are_enlarged(frames):
    assert sum(tiny_band().unlike(view(frame)) > 0 for frame in frames) <= len(frames) // 12
    for frame in frames[:4]:
        assert look(view(frame.repeat(2, 0).repeat(2, 1))) == pytest.approx(look(view(frame)), abs=1e-3)


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_frames_lie_outside(name, frames):
    values = [tiny_band().unlike(view(SPOILT[name](frame))) for frame in frames]
    assert numpy.mean(values) > 0.8


def test_the_band_of_the_same_videos_is_the_same_and_a_frame_of_it_is_no_neighbour_of_its_own_video():
    looks = [[look(view(frame)) for frame in moving_texture(4, 1.0, seed=seed)] for seed in range(4)]
    band, again = RealBand(looks), RealBand(looks)
    assert (band.digest, band.radius) == (again.digest, again.radius)
    apart = [
        numpy.linalg.norm((one - other) / band.spread) for one in looks[0] for other in looks[0] if one is not other
    ]
    assert band.radius > min(apart)


def test_a_folder_of_two_films_makes_a_band_and_one_film_does_not(tmp_path):
    for seed in range(2):
        write_film(tmp_path / f"{seed}.mp4", moving_texture(16, 1.0, seed=seed))
    assert read_band(str(tmp_path)).radius > 0
    (tmp_path / "1.mp4").unlink()
    read_band.cache_clear()
    with pytest.raises(ConfigError) as error:
        read_band(str(tmp_path))
    assert error.value.key == "real_videos"
