"""Denoise neighbouring blocks together, at noise that rises along the video, as SkyReels-V2 and MAGI-1 do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from actors.generation.streaming import Scene, text_at
from models.flow_matching import add_noise, x0_from_velocity
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise, to_device
from models.wan.attention import Visibility
from models.wan.layers import KeysValues
from models.wan.network import Wan
from models.worlds.video_codec import VideoCodec, video_frames


@dataclass(frozen=True)
class Staggering:
    """Sets the levels of a block, and how far the next one is behind it."""

    sigmas: Sequence[float]
    """Levels of the denoising steps, from 1 down."""
    stagger: int
    """Steps by which a block is ahead of the next one; as many as there are levels: block by block."""
    solver: str = "renoise"
    """"renoise", as few-step students are trained, or "euler", along the flow's ODE."""
    context_noise: float = 0.0
    """Level at which finished blocks are read into the cache."""


@dataclass(frozen=True)
class _NoisyBlock:
    """Holds a block of the window before one of its denoising steps."""

    index: int
    """Place in the video, counted in blocks."""
    x_t: Tensor
    """[B F C H W]."""
    step: int = 0

    def denoised(self, velocity: Tensor, levels: Staggering, noise: BlockNoise) -> "_NoisyBlock":
        """Return the block at its next level, after the last one clean. `velocity` [B F C H W] is that of `x_t`."""
        level = torch.full(self.x_t.shape[:2], levels.sigmas[self.step], device=self.x_t.device)
        x0, step = x0_from_velocity(self.x_t, velocity, level), self.step + 1
        if step == len(levels.sigmas):
            return replace(self, x_t=x0, step=step)
        following = torch.full_like(level, levels.sigmas[step])
        if levels.solver == "renoise":
            return replace(self, x_t=add_noise(x0, noise.draw(self.index, step), following), step=step)
        # A step of the ODE has the form of the prediction, over a part of the level.
        return replace(self, x_t=x0_from_velocity(self.x_t, velocity, level - following), step=step)


@torch.no_grad()
def stream_staggered(
    student: Wan, shape: StudentConfig, scenes: Sequence[Scene], noise: BlockNoise, codec: VideoCodec, frames: float,
    start: Tensor | None = None, *, levels: Staggering,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield clean latents [B F C H W] block by block, as `stream_latents` does, from a window that is denoised jointly.

    Each pass takes all blocks of the window one level down; the first leaves clean, and noise enters at the end. A
    block sees itself and `shape.context_frames` frames before it, finished or not. The window has at most as many
    blocks as the attention; with a stagger of 0 all of them begin and end together. A pass has the prompt of its first
    block.
    """
    block_frames, most = shape.block_frames, shape.attention_frames // shape.block_frames
    cache, window, waited = KVCache(shape.wan, shape.context_frames), [], levels.stagger
    text = scenes[0].text
    text_keys_values = student.text_keys_values(text)
    if start is not None:
        given = codec.encode(start)
        for piece in given.split(block_frames, dim=1):
            cache = _append(student, piece, text_keys_values, cache, levels, noise)
        yield given
    entering = cache.frames
    while video_frames(codec, cache.frames) < frames:
        while len(window) < most and waited >= levels.stagger and video_frames(codec, entering) < frames:
            index = entering // block_frames
            window.append(_NoisyBlock(index, noise.draw(index, 0)))
            entering, waited = entering + block_frames, 0
        if (current := text_at(scenes, codec, cache.frames)) is not text:
            text, text_keys_values = current, student.text_keys_values(current)
        velocities = _velocities(student, window, text_keys_values, cache, levels)
        window = [block.denoised(v, levels, noise) for block, v in zip(window, velocities, strict=True)]
        waited += 1
        while window and window[0].step == len(levels.sigmas):
            x0 = window.pop(0).x_t
            cache = _append(student, x0, text_keys_values, cache, levels, noise)
            yield x0


def _velocities(
    student: Wan, window: Sequence[_NoisyBlock], text: list[KeysValues], cache: KVCache, levels: Staggering
) -> Sequence[Tensor]:
    """Return the velocity of each block of the window, [B F C H W], in one causal pass behind the cache."""
    x_t = torch.cat([block.x_t for block in window], dim=1)
    videos, frames = x_t.shape[0], window[0].x_t.shape[1]
    sigmas = torch.tensor([levels.sigmas[block.step] for block in window], dtype=torch.float32)
    timestep = 1000 * to_device(sigmas.repeat_interleave(frames), x_t.device).expand(videos, -1)
    visibility = None
    if len(window) > 1:
        tokens, seen = student.config.tokens_per_frame(*x_t.shape[-2:]), cache.window_frames
        spans = []
        for first in range(0, x_t.shape[1], frames):
            rows = slice(first * tokens, (first + frames) * tokens)
            oldest = max(0, seen + first - cache.context_frames)
            spans.append((rows, (slice(oldest * tokens, (seen + first + frames) * tokens),)))
        visibility = Visibility(tuple(spans), (None,) * len(spans))
    past = cache.past(x_t.shape[1])
    return student.run(x_t, timestep, text, start=cache.frames, past=past, visibility=visibility).split(frames, dim=1)


def _append(
    student: Wan, x0: Tensor, text: list[KeysValues], cache: KVCache, levels: Staggering, noise: BlockNoise
) -> KVCache:
    """Return the cache after the finished frames `x0` [B F C H W], which are read at the level of the context."""
    level = torch.full(x0.shape[:2], levels.context_noise, device=x0.device)
    if levels.context_noise:
        drawn = noise.draw(cache.frames // noise.block_shape[0], len(levels.sigmas))
        x0 = add_noise(x0, drawn[:, : x0.shape[1]], level)
    past = cache.past(x0.shape[1])
    keys_values = student.keys_values(x0, text, start=cache.frames, past=past, timestep=1000 * level)
    return cache.append(x0.shape[1], keys_values)
