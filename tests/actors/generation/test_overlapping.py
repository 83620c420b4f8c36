"""Horizons that overlap are videos of one horizon, of which the later begin with the end of the one before."""

import math
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from actors.generation.overlapping import overlap_latents, stream_horizons
from actors.generation.streaming import Scene, stream_latents
from models.causal import denoise_block, write_block
from models.flow_matching import add_noise, warped_sigmas, x0_from_velocity
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text, to_latents, to_pixels
from models.worlds.video_codec import TinyCodec

SHAPE = StudentConfig(height=4, width=4, horizon_frames=9, attention_frames=9, timesteps=[1000.0, 500.0])
CODEC = TinyCodec()
SEEDS = [5, 6]
FIRST, SECOND = (encode_text([prompt] * 2) for prompt in (PROMPTS[0], PROMPTS[50]))
NOISE = BlockNoise(SEEDS, (SHAPE.block_frames, *SHAPE.frame_shape))


@pytest.fixture(scope="module")
def student() -> Wan:
    torch.manual_seed(0)
    return Wan(SHAPE.wan).eval()


@torch.no_grad()
def slow_video(student: Wan, texts: list[Tensor], overlap: int, opened: Tensor | None = None) -> Tensor:
    """Latents of a video of a text for each block, block by block, each behind a cache that is read from nothing."""
    pieces = [] if opened is None else [(x0, texts[0]) for x0 in opened.split(3, dim=1)]
    video = [x0 for x0, _ in pieces]
    for text in texts:
        if sum(x0.shape[1] for x0, _ in pieces) + 3 > SHAPE.horizon_frames:
            opening = torch.cat([x0 for x0, _ in pieces], dim=1)[:, -overlap:].clone()
            opening[:, :1] = to_latents(to_pixels(opening[:, :1]))
            pieces = [(x0, text) for x0 in opening.split(3, dim=1)]
        cache = KVCache(SHAPE.wan, SHAPE.context_frames)
        for x0, reader in pieces:
            cache = write_block(student, x0, student.text_keys_values(reader), cache)
        number, x0 = sum(x0.shape[1] for x0 in video) // 3, None
        for step, sigma in enumerate(warped_sigmas(SHAPE.timesteps, SHAPE.shift)):
            level, drawn = torch.full((2, 3), sigma), NOISE.draw(number, step)
            x_t = drawn if x0 is None else add_noise(x0, drawn, level)
            velocity = denoise_block(student, x_t, 1000 * level, student.text_keys_values(text), cache)
            x0 = x0_from_velocity(x_t, velocity, level)
        pieces, video = [*pieces, (x0, text)], [*video, x0]
    return torch.cat(video, dim=1)


def made(student: Wan, scenes: list[Scene], frames: float, overlap: int, **options) -> list[Tensor]:
    return list(stream_horizons(student, SHAPE, scenes, NOISE, CODEC, frames, overlap=overlap, **options))


@pytest.mark.parametrize("overlap", [3, 6])
def test_each_horizon_is_a_video_of_its_own_behind_the_end_of_the_one_before(student, overlap):
    blocks = made(student, [Scene(0, FIRST)], 24, overlap)
    assert [x0.shape[1] for x0 in blocks] == 8 * [3]
    expected = slow_video(student, 8 * [FIRST], overlap)
    torch.testing.assert_close(torch.cat(blocks, dim=1), expected, rtol=0, atol=1e-5)


def test_the_first_horizon_is_that_of_a_rolling_cache_and_the_second_is_another(student):
    rolled = list(islice(stream_latents(student, SHAPE, [Scene(0, FIRST)], NOISE, CODEC, math.inf), 4))
    blocks = made(student, [Scene(0, FIRST)], 12, 3)
    assert all(torch.equal(*pair) for pair in zip(blocks[:3], rolled[:3], strict=True))
    assert not torch.allclose(blocks[3], rolled[3], atol=1e-4)


@pytest.mark.parametrize("first", [4, 9, 13])
def test_a_scene_begins_inside_a_horizon_or_with_one(student, first):
    kept = math.ceil(first / 3)
    blocks = made(student, [Scene(0, FIRST), Scene(first, SECOND), Scene(18, FIRST)], 21, 3)
    expected = slow_video(student, [*kept * [FIRST], *(6 - kept) * [SECOND], FIRST], 3)
    torch.testing.assert_close(torch.cat(blocks, dim=1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 6, 9])
def test_a_picture_or_a_clip_is_the_beginning_of_the_first_horizon(student, length):
    start = torch.rand(2, length, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    given, *blocks = made(student, [Scene(0, FIRST)], length + 12, 3, start=start)
    torch.testing.assert_close(to_pixels(given), start)
    expected = slow_video(student, 4 * [FIRST], 3, given)
    torch.testing.assert_close(torch.cat([given, *blocks], dim=1), expected, rtol=0, atol=1e-5)


def test_the_first_frame_of_an_overlap_is_decoded_behind_those_before_it_and_encoded_as_a_picture():
    """The stand-in's pixels count what its decoder has seen; a picture is half as bright."""

    def decode(latents: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        pixels = latents.cumsum(1) + (0 if past is None else past)
        pixels = torch.cat([pixels - 100, pixels], dim=1)  # a latent frame is two of video, the last the latest
        return pixels, pixels[:, -1:]

    codec = SimpleNamespace(decode=decode, encode=lambda video: video / 2)
    clip = torch.rand(2, 9, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    opening = overlap_latents(codec, clip, 4)
    torch.testing.assert_close(opening[:, 0], clip[:, :6].sum(1) / 2)
    assert torch.equal(opening[:, 1:], clip[:, 6:])


def test_blocks_of_a_later_horizon_have_noise_of_their_own():
    later = replace(NOISE, first=3)
    assert torch.equal(later.draw(1, 1), NOISE.draw(4, 1)) and not torch.equal(later.draw(1, 1), NOISE.draw(1, 1))
