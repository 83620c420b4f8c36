"""The student: Wan's weights with block-causal attention over finished blocks.

Three ways to run it, equal where they overlap (tests/models/test_causal.py):
`denoise_block` and `write_block` on a rolling cache, as at inference; `denoise_window`, all blocks of a window at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention import Visibility
from models.kv_cache import KVCache
from models.layers import KeysValues
from models.wan import Wan


def denoise_block(student: Wan, x_t: Tensor, timestep: Tensor, text: list[KeysValues], cache: KVCache) -> Tensor:
    """Velocity of the next block `x_t` [B F C H W] at `timestep` [B F], which sees itself and the cache."""
    return student.run(x_t, timestep, text, start=cache.frames, past=cache.past())


@torch.no_grad()
def write_block(student: Wan, x0: Tensor, text: list[KeysValues], cache: KVCache) -> KVCache:
    """The cache after the finished block `x0` [B F C H W] was read at timestep 0. No gradient enters a cache."""
    return cache.append(x0.shape[1], student.keys_values(x0, text, start=cache.frames, past=cache.past()))


def denoise_window(
    student: Wan,
    x_t: Tensor,
    timestep: Tensor,
    text: list[KeysValues],
    clean: Tensor,
    padding: Sequence[int],
    block_frames: int,
    context_frames: int,
) -> Tensor:
    """Velocity of all blocks of a window in one pass, each seeing itself and the clean frames before it.

    `x_t` [B K C H W] at `timestep` [B K]; `clean` [B P + K - block C H W] holds the P frames before the window and the
    window's own finished frames but its last block (which nobody sees). The first `padding` [B] frames of a sample are
    filler, where the video is younger than P frames; P and `padding` are multiples of the block. Clean keys and values
    carry no gradient. Positions count from the first clean frame: attention sees differences only.
    """
    frames = x_t.shape[1]
    history = clean.shape[1] - (frames - block_frames)
    tokens = student.config.tokens_per_frame(*x_t.shape[-2:])
    device, past = x_t.device, None
    if clean.shape[1]:
        with torch.no_grad():
            visibility = _clean_visibility(clean.shape[1], block_frames, context_frames, tokens, padding, device)
            past = student.keys_values(clean, text, visibility=visibility)
    visibility = _noisy_visibility(history, frames, block_frames, context_frames, tokens, padding, device)
    return student.run(x_t, timestep, text, start=history, past=past, visibility=visibility)


def _clean_visibility(
    frames: int, block: int, context: int, tokens: int, padding: Sequence[int], device: torch.device
) -> Visibility:
    """Block-causal, rolling: a clean block sees itself and `context` frames before it."""
    windows = [(first, max(0, first - context), first + block) for first in range(0, frames, block)]
    spans = tuple((_slice(first, end, tokens), (_slice(oldest, end, tokens),)) for first, oldest, end in windows)
    masks = tuple(_mask(oldest, first, block, tokens, padding, device) for first, oldest, _ in windows)
    return Visibility(spans, masks)


def _noisy_visibility(
    history: int,
    frames: int,
    block: int,
    context: int,
    tokens: int,
    padding: Sequence[int],
    device: torch.device,
) -> Visibility:
    """A noisy block sees `context` clean frames before it, and itself behind all clean frames."""
    clean = history + frames - block
    windows = [(first, max(0, history + first - context), history + first) for first in range(0, frames, block)]
    spans = tuple(
        (
            _slice(first, first + block, tokens),
            (_slice(oldest, end, tokens), _slice(clean + first, clean + first + block, tokens)),
        )
        for first, oldest, end in windows
    )
    masks = tuple(_mask(oldest, end, block, tokens, padding, device) for _, oldest, end in windows)
    return Visibility(spans, masks)


def _slice(first: int, end: int, tokens: int) -> slice:
    return slice(first * tokens, end * tokens)


def _mask(
    oldest: int, end: int, block: int, tokens: int, padding: Sequence[int], device: torch.device
) -> Tensor | None:
    """[B 1 1 keys] over the frames `oldest`..`end` and the block itself, which is always seen (no row is empty)."""
    if oldest >= max(padding):  # no filler in sight: the unmasked kernel serves
        return None
    first_real = torch.tensor(padding)[:, None]
    before = torch.arange(oldest, end)[None] >= first_real
    own = torch.ones(len(padding), block, dtype=torch.bool)
    return torch.cat([before, own], dim=1).to(device).repeat_interleave(tokens, dim=1)[:, None, None]
