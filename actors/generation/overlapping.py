"""Continue a video as CausVid does: horizon by horizon, each of which begins with the last frames of the one before."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from actors.generation.streaming import Scene, text_at
from models.causal import write_block
from models.flow_matching import warped_sigmas
from models.kv_cache import RollingCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import Wan
from models.worlds.video_codec import VideoCodec, image_latent, video_frames


@torch.no_grad()
def stream_horizons(
    student: Wan, shape: StudentConfig, scenes: Sequence[Scene], noise: BlockNoise, codec: VideoCodec, frames: float,
    start: Tensor | None = None, *, overlap: int,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield clean latents [B F C H W] block by block, the overlaps once, as `stream_latents` does for a rolling cache.

    A horizon is `shape.horizon_frames` long, and its positions count from 0: no later one is met than in training. The
    decoder runs through all of them; CausVid begins it anew, and shows an overlap as the second horizon has it.
    """
    sigmas, block_frames = warped_sigmas(shape.timesteps, shape.shift), shape.block_frames
    clip, done, cache = None, 0, RollingCache(shape.wan, shape.context_frames)
    if start is not None:
        clip = codec.encode(start)
        cache = _read(student, clip, scenes[0].text, cache, block_frames)
        done = clip.shape[1]
        yield clip
    while video_frames(codec, done) < frames:
        text = text_at(scenes, codec, done)
        if clip is not None and clip.shape[1] + block_frames > shape.horizon_frames:
            clip = overlap_latents(codec, clip, overlap)
            cache = _read(student, clip, text, cache.emptied(0), block_frames)
        skipped = replace(noise, first=(done - cache.frames) // block_frames)
        for block in stream_blocks(student, text, skipped, sigmas, cache):
            clip = block.x0 if clip is None else torch.cat([clip, block.x0], dim=1)
            done += block_frames
            yield block.x0
            full = clip.shape[1] + block_frames > shape.horizon_frames
            if full or video_frames(codec, done) >= frames or text_at(scenes, codec, done) is not text:
                break


def _read(student: Wan, clip: Tensor, text: Tensor, cache: RollingCache, block_frames: int) -> RollingCache:
    """Return the cache after the clean frames `clip` [B F C H W], block by block."""
    text_keys_values = student.text_keys_values(text)
    for piece in clip.split(block_frames, dim=1):
        cache = write_block(student, piece, text_keys_values, cache)
    return cache


def overlap_latents(codec: VideoCodec, clip: Tensor, overlap: int) -> Tensor:
    """Return the last `overlap` frames of `clip` [B F C H W] as the first ones of a video.

    The first is decoded and encoded as a picture, because the first latent frame of a video is one; the others are
    kept. The decoder begins at the clip's first frame, which its pixels depend on.
    """
    first, past = clip.shape[1] - overlap, None
    for frame in clip[:, :first].split(1, dim=1):  # the pixels of all of them at once would be gigabytes
        _, past = codec.decode(frame, past)
    return torch.cat([image_latent(codec, clip[:, first : first + 1], past), clip[:, first + 1 :]], dim=1)
