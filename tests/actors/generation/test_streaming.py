"""A streamed video is the sampler's blocks, decoded; scenes, images and sinks change the cache as they say."""

import math
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from actors.generation.streaming import Scene, make_videos, stream_latents
from models.causal import write_block
from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text, to_pixels
from models.worlds.video_codec import TinyCodec

SHAPE = StudentConfig(height=4, width=4, horizon_frames=6, attention_frames=9, timesteps=[1000.0, 500.0])
CODEC = TinyCodec()
SEEDS = [5, 6]
FIRST, SECOND = (encode_text([prompt] * 2) for prompt in (PROMPTS[0], PROMPTS[50]))


@pytest.fixture(scope="module")
def student() -> Wan:
    torch.manual_seed(0)
    return Wan(SHAPE.wan).eval()


def noise() -> BlockNoise:
    return BlockNoise(SEEDS, (SHAPE.block_frames, *SHAPE.frame_shape))


def stream(student: Wan, scenes: list[Scene], blocks: int, shape: StudentConfig = SHAPE, **options) -> Tensor:
    """Pixels of a stream without end."""
    latents = stream_latents(student, shape, scenes, noise(), CODEC, math.inf, **options)
    return to_pixels(torch.cat(list(islice(latents, blocks)), dim=1))


def go_on(student: Wan, text: Tensor, cache: KVCache) -> Tensor:
    blocks = stream_blocks(student, text, noise(), warped_sigmas(SHAPE.timesteps, SHAPE.shift), cache)
    return to_pixels(next(blocks).x0)


def test_a_stream_is_the_video_that_is_made_at_once(student):
    latents = make_videos(student, SHAPE, [PROMPTS[0]] * 2, SEEDS, 18, encode_text, lambda done: None)
    assert torch.equal(stream(student, [Scene(0, FIRST)], 6), to_pixels(latents))


def test_a_scene_begins_with_the_first_block_that_lies_wholly_in_it(student):
    before = stream(student, [Scene(0, FIRST)], 6)
    for first, kept in ((6, 6), (7, 9), (9, 9)):
        video = stream(student, [Scene(0, FIRST), Scene(first, SECOND)], 6)
        assert torch.equal(video[:, :kept], before[:, :kept])
        assert not torch.allclose(video[:, kept : kept + 3], before[:, kept : kept + 3], atol=1e-4)


def test_a_scene_that_is_over_before_a_block_begins_is_passed_over(student):
    scenes = [Scene(0, FIRST), Scene(7, -SECOND), Scene(8, SECOND)]
    assert torch.equal(stream(student, scenes, 5), stream(student, [Scene(0, FIRST), Scene(8, SECOND)], 5))


@pytest.mark.parametrize(("frames", "blocks"), [(1, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_no_block_is_made_that_holds_no_frame_of_the_video(student, frames, blocks):
    scenes = [Scene(0, FIRST), Scene(5, SECOND), Scene(50, FIRST)]
    made = list(stream_latents(student, SHAPE, scenes, noise(), CODEC, frames))
    assert torch.equal(to_pixels(torch.cat(made, dim=1)), stream(student, scenes, blocks))


def test_a_picture_alone_is_a_video_of_one_frame(student):
    made = stream_latents(student, SHAPE, [Scene(0, FIRST)], noise(), CODEC, 1, torch.rand(2, 1, 3, 4, 4))
    assert [x0.shape[1] for x0 in made] == [1]


def unclamped(student: Wan, blocks: int, shape: StudentConfig) -> Tensor:
    """Latents of the first blocks."""
    cache = KVCache(shape.wan, shape.context_frames, shape.sink_frames)
    made = stream_blocks(student, FIRST, noise(), warped_sigmas(shape.timesteps, shape.shift), cache)
    return torch.cat([block.x0 for block in islice(made, blocks)], dim=1)


@pytest.mark.parametrize("sink", [0, 3])
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_recache_reads_what_is_remembered_under_the_new_prompt(student, sink, blocks):
    shape = replace(SHAPE, sink_frames=sink)
    latents = unclamped(student, blocks, shape)
    keys_values = student.text_keys_values(SECOND)
    remembered = latents[:, sink:][:, -shape.context_frames :]
    cache = KVCache(shape.wan, shape.context_frames, shape.sink_frames)
    for x0 in latents[:, :sink].split(3, dim=1) if sink else ():
        cache = write_block(student, x0, keys_values, cache)
    cache = replace(cache, frames=3 * blocks - remembered.shape[1])
    for x0 in remembered.split(3, dim=1) if remembered.shape[1] else ():
        cache = write_block(student, x0, keys_values, cache)
    scenes = [Scene(0, FIRST), Scene(3 * blocks, SECOND)]
    again = stream(student, scenes, blocks + 1, shape, recache=True)[:, 3 * blocks :]
    torch.testing.assert_close(again, go_on(student, SECOND, cache), rtol=0, atol=1e-5)
    plain = stream(student, scenes, blocks + 1, shape)[:, 3 * blocks :]
    assert not torch.allclose(again, plain, atol=1e-4)


def test_an_image_is_the_first_frame_and_every_block_knows_it(student):
    image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    video = stream(student, [Scene(0, FIRST)], 4, start=image[:, None])
    torch.testing.assert_close(video[:, 0], image)
    assert video.shape[1] == 1 + 3 * 3
    cache = KVCache(SHAPE.wan, SHAPE.context_frames)
    cache = write_block(student, CODEC.encode(image[:, None]), student.text_keys_values(FIRST), cache)
    torch.testing.assert_close(video[:, 1:4], go_on(student, FIRST, cache), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sink", [0, 3])
def test_a_clip_is_remembered_as_the_sampler_remembers_its_own_blocks(student, sink):
    """Continued from its own first blocks, a video is the one that never stopped."""
    shape, codec = replace(SHAPE, sink_frames=sink), SimpleNamespace(encode=lambda video: video, time_stride=1)
    whole = unclamped(student, 5, shape)
    made = stream_latents(student, shape, [Scene(0, FIRST)], noise(), codec, 15, whole[:, :6])
    torch.testing.assert_close(torch.cat(list(made), dim=1), whole, rtol=0, atol=1e-5)


def test_a_clip_shorter_than_a_block_is_beside_the_sink(student):
    start = torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    latents = stream_latents(student, replace(SHAPE, sink_frames=3), [Scene(0, FIRST)], noise(), CODEC, 20, start)
    assert [x0.shape[1] for x0 in latents] == [2, 3, 3, 3, 3, 3, 3]


def test_with_an_image_the_sink_is_the_image_and_whole_blocks(student):
    image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    shape, keys_values = replace(SHAPE, sink_frames=3), student.text_keys_values(FIRST)
    latents = stream_latents(student, shape, [Scene(0, FIRST)], noise(), CODEC, math.inf, image[:, None])
    made = [to_pixels(x0) for x0 in islice(latents, 8)]
    cache = KVCache(SHAPE.wan, SHAPE.context_frames, sink_frames=4)
    cache = write_block(student, CODEC.encode(image[:, None]), keys_values, cache)
    sampled = stream_blocks(student, FIRST, noise(), warped_sigmas(SHAPE.timesteps, SHAPE.shift), cache)
    for block, pixels in zip(sampled, made[1:], strict=False):
        torch.testing.assert_close(pixels, to_pixels(block.x0), rtol=0, atol=1e-6)
        tokens = SHAPE.wan.tokens_per_frame(4, 4)
        assert block.cache.sink[0][0].shape[1] == 4 * tokens


def test_a_video_goes_on_past_the_rows_of_wans_position_table(student):
    """Frame 1024 and frame 3000 look like frame 6 where the window shows the same frames: only differences count."""
    latents = unclamped(student, 2, SHAPE)
    made = {}
    for start in (0, 1020, 1023, 2997):
        cache = KVCache(SHAPE.wan, SHAPE.context_frames, frames=start)
        keys_values = student.text_keys_values(FIRST)
        for x0 in latents.split(3, dim=1):
            cache = write_block(student, x0, keys_values, cache)
        fixed = torch.randn(2, 3, *SHAPE.frame_shape, generator=torch.Generator().manual_seed(2))
        made[start] = write_block(student, fixed, keys_values, cache).window[-1][1]  # values of the deepest layer
    for start in (1020, 1023, 2997):
        torch.testing.assert_close(made[start], made[0], rtol=1e-4, atol=1e-4)
