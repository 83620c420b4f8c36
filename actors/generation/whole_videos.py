"""Whole videos of a student, as at inference: for evaluation and reports."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import Wan


def make_videos(
    student: Wan,
    shape: StudentConfig,
    prompts: Sequence[str],
    seeds: Sequence[int],
    frames: int,
    encode_text: Callable[[Sequence[str]], Tensor],
    progress: Callable[[int], None],
) -> Tensor:
    """Latents [B F C H W] of one video per prompt, `frames` long; `progress` is told the frames done."""
    noise = BlockNoise(seeds, (shape.block_frames, *shape.frame_shape))
    cache = KVCache(shape.wan, shape.context_frames, shape.sink_frames)
    blocks = stream_blocks(student, encode_text(prompts), noise, warped_sigmas(shape.timesteps, shape.shift), cache)
    made = []
    for done in range(shape.block_frames, frames + 1, shape.block_frames):
        made.append(next(blocks).x0)
        progress(done)
    return torch.cat(made, dim=1)
