"""A staggered window is one causal pass a step, and block by block where a block is all its steps ahead."""

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from actors.generation.staggered import Staggering, stream_staggered
from actors.generation.streaming import Scene, stream_latents
from models.flow_matching import add_noise, x0_from_velocity
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text, to_pixels
from models.worlds.video_codec import TinyCodec

SHAPE = StudentConfig(height=4, width=4, horizon_frames=9, attention_frames=9, timesteps=[1000.0, 750.0, 500.0])
SIGMAS = [1.0, 0.9, 0.75]
CODEC = TinyCodec()
SEEDS = [5, 6]
FIRST, SECOND = (encode_text([prompt] * 2) for prompt in (PROMPTS[0], PROMPTS[50]))
NOISE = BlockNoise(SEEDS, (SHAPE.block_frames, *SHAPE.frame_shape))
BLOCK = 3


@pytest.fixture(scope="module")
def student() -> Wan:
    torch.manual_seed(0)
    return Wan(SHAPE.wan).eval()


def made(student: Wan, levels: Staggering, frames: float, scenes: list[Scene] | None = None, **options) -> list[Tensor]:
    scenes = scenes or [Scene(0, FIRST)]
    return list(stream_staggered(student, SHAPE, scenes, NOISE, CODEC, frames, levels=levels, **options))


@torch.no_grad()
def velocity_of(student: Wan, video: list[Tensor], timesteps: list[float]) -> list[Tensor]:
    """Velocity of each block [B 3 C H W] at its timestep: blocks one by one, each behind keys and values of all others.

    The keys and values of a block are those that it has behind the blocks that itself sees.
    """
    text, velocities, layers = student.text_keys_values(FIRST), [], []
    for block, (x_t, timestep) in enumerate(zip(video, timesteps, strict=True)):
        past = layers[max(0, block - SHAPE.context_frames // BLOCK) :]
        segments = [tuple(one[layer] for one in past) for layer in range(SHAPE.wan.num_layers)] if past else None
        level = torch.full((2, BLOCK), timestep)
        where = {"start": BLOCK * block, "past": segments}
        velocities.append(student.run(x_t, level, text, **where))
        layers.append(student.keys_values(x_t, text, timestep=level, **where))
    return velocities


def slow_video(student: Wan, levels: Staggering, enters: list[int]) -> list[Tensor]:
    """Blocks of a video, each of which enters at its pass: every pass computes the whole video from its first block."""
    sigmas, video = [*levels.sigmas, levels.context_noise], [NOISE.draw(block, 0) for block in range(len(enters))]
    clean = [None] * len(enters)
    for step in range(max(enters) + len(levels.sigmas)):
        stages = [step - enter for enter in enters]
        here = [block for block, stage in enumerate(stages) if stage >= 0]
        timesteps = [1000 * sigmas[min(stages[block], len(levels.sigmas))] for block in here]
        velocities = velocity_of(student, [video[block] for block in here], timesteps)
        for block, velocity in zip(here, velocities, strict=True):
            if (stage := stages[block]) >= len(levels.sigmas):
                continue
            x0 = x0_from_velocity(video[block], velocity, torch.tensor(sigmas[stage]))
            if stage + 1 == len(levels.sigmas):
                clean[block], drawn = x0, NOISE.draw(block, stage + 1)
                video[block] = add_noise(x0, drawn, torch.tensor(levels.context_noise)) if levels.context_noise else x0
            elif levels.solver == "renoise":
                video[block] = add_noise(x0, NOISE.draw(block, stage + 1), torch.tensor(sigmas[stage + 1]))
            else:
                video[block] = video[block] + (sigmas[stage + 1] - sigmas[stage]) * velocity
    return clean


@pytest.mark.parametrize(
    ("stagger", "sigmas", "enters"),
    [
        (0, SIGMAS, [0, 0, 0, 3, 3]),
        (1, SIGMAS, [0, 1, 2, 3, 4]),
        (1, [*SIGMAS, 0.4], [0, 1, 2, 4, 5]),  # the window has room for three
        (2, SIGMAS, [0, 2, 4, 6, 8]),
        (3, SIGMAS, [0, 3, 6, 9, 12]),
    ],
)
@pytest.mark.parametrize(("solver", "context_noise"), [("renoise", 0.0), ("euler", 0.1)])
def test_each_pass_takes_every_block_of_the_window_one_level_down(
    student, stagger, sigmas, enters, solver, context_noise
):
    """The slow formula has no cache that rolls, so that the frames before the window are those of every pass."""
    levels = Staggering(sigmas, stagger, solver, context_noise)
    expected = slow_video(student, levels, enters)
    blocks = made(student, levels, 15)
    torch.testing.assert_close(torch.stack(blocks), torch.stack(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("first", [4, 9])
def test_with_all_its_steps_ahead_a_block_is_the_samplers_own_bit_by_bit(student, first):
    scenes, levels = [Scene(0, FIRST), Scene(first, SECOND)], Staggering(SIGMAS, len(SIGMAS))
    blocks = made(student, levels, 18, scenes)
    cache, changed = KVCache(SHAPE.wan, SHAPE.context_frames), math.ceil(first / BLOCK)
    expected = list(islice(stream_blocks(student, FIRST, NOISE, SIGMAS, cache), changed))
    expected += islice(stream_blocks(student, SECOND, NOISE, SIGMAS, expected[-1].cache), 6 - changed)
    assert len(blocks) == 6
    assert all(torch.equal(x0, block.x0) for x0, block in zip(blocks, expected, strict=True))


def test_a_start_is_read_before_the_first_block(student):
    image = torch.rand(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    levels = Staggering([1.0, 0.5], 2)
    shape = replace(SHAPE, timesteps=[1000.0, 500.0], shift=1.0)
    expected = list(stream_latents(student, shape, [Scene(0, FIRST)], NOISE, CODEC, 12, image))
    blocks = made(student, levels, 12, start=image)
    torch.testing.assert_close(to_pixels(blocks[0]), image)
    assert [x0.shape[1] for x0 in blocks] == [1, 3, 3, 3, 3]
    torch.testing.assert_close(torch.cat(blocks, dim=1), torch.cat(expected, dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stagger", [0, 1, 3])
@pytest.mark.parametrize("frames", [1, 4, 9])
def test_no_block_enters_that_holds_no_frame_of_the_video(student, stagger, frames):
    passes = []
    handle = student.blocks[-1].attn1.to_q.register_forward_hook(
        lambda _, inputs, __: passes.append(inputs[0].shape[1])
    )
    blocks = made(student, Staggering(SIGMAS, stagger), frames)
    handle.remove()
    assert len(blocks) == math.ceil(frames / BLOCK)
    assert sum(passes) == len(SIGMAS) * BLOCK * len(blocks)  # reading a finished block stops before these queries
