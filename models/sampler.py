"""Sample videos: the student block by block, the teacher all frames at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.causal import denoise_block, write_block
from models.flow_matching import add_noise, guide, x0_from_velocity
from models.kv_cache import KVCache, RollingCache
from models.noise import BlockNoise, MemberNoise
from models.wan.network import Wan


@dataclass(frozen=True)
class SampledBlock:
    """Holds a finished block of a rollout."""

    index: int
    """Place in the rollout, counted in blocks."""
    x0: Tensor
    """[B F C H W]."""
    inputs: list[Tensor]
    """The noisy input of each denoising step, [B F C H W] each: the recorded side of backward noise initialisation."""
    predictions: list[Tensor]
    """The clean prediction of each denoising step, [B F C H W] each; the last is the block."""
    cache: KVCache | RollingCache
    """The cache behind the block, to fork the videos here; a rolling one until the next block is asked for."""


@torch.no_grad()
def stream_blocks(
    student: Wan, text: Tensor, noise: BlockNoise | MemberNoise, sigmas: Sequence[float], cache: KVCache | RollingCache
) -> Iterator[SampledBlock]:
    """Yield blocks without end, by the few-step re-noising sampler; the caller stops.

    Each step predicts x0 and noises it again to the next level with fresh noise; the last x0 is the block, read once
    more at timestep 0 into the cache. Between two blocks the caller may load newer weights into `student`.
    `text` is [B S text_dim].
    """
    block_frames = noise.block_shape[0]
    weights: list[tuple[Tensor, int]] = []
    while True:
        index = cache.frames // block_frames
        # Once per version of the weights: assigning others changes their identity, writing them in place a count.
        newest = [(weight, weight._version) for weight in student.text_weights()]
        if not weights or any(a is not b or i != j for (a, i), (b, j) in zip(weights, newest, strict=True)):
            weights, text_keys_values = newest, student.text_keys_values(text)
        x0, inputs, predictions = None, [], []
        for step, sigma in enumerate(sigmas):
            level = torch.full((len(text), block_frames), sigma, device=text.device)
            drawn = noise.draw(index, step)
            x_t = drawn if x0 is None else add_noise(x0, drawn, level)
            inputs.append(x_t)
            velocity = denoise_block(student, x_t, 1000 * level, text_keys_values, cache)
            x0 = x0_from_velocity(x_t, velocity, level)
            predictions.append(x0)
        cache = write_block(student, x0, text_keys_values, cache)
        yield SampledBlock(index, x0, inputs, predictions, cache)


@torch.no_grad()
def teacher_states(
    teacher: Wan, text: Tensor, unconditional: Tensor, noise: Tensor, sigmas: Sequence[float], guidance: float
) -> Iterator[Tensor]:
    """Yield the teacher's probability-flow ODE [B F C H W] at each of `sigmas` (from 1 down), then its end x0.

    Euler steps with classifier-free `guidance` in the standard form. `unconditional` is the negative prompt's text.
    """
    x_t = noise
    both = torch.cat([text, unconditional.expand_as(text)])
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        yield x_t
        timestep = torch.full((2 * len(text),), 1000 * sigma, device=text.device)
        conditional, free = teacher(torch.cat([x_t, x_t]), timestep, both).chunk(2)
        x_t = x_t + (following - sigma) * guide(conditional, free, guidance)
    yield x_t
