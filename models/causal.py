"""The student: Wan's weights with block-causal attention over finished blocks.

Three ways to run it, equal where they overlap (tests/models/test_causal.py):
`denoise_block` and `write_block` on a rolling cache, as at inference; `denoise_window`, all blocks of a window at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.kv_cache import KVCache
from models.wan.attention import Visibility
from models.wan.layers import KeysValues, Segments
from models.wan.network import Wan


def denoise_block(student: Wan, x_t: Tensor, timestep: Tensor, text: list[KeysValues], cache: KVCache) -> Tensor:
    """Velocity of the next block `x_t` [B F C H W] at `timestep` [B F], which sees itself and the cache."""
    return student.run(x_t, timestep, text, start=cache.frames, past=cache.past())


@torch.no_grad()
def write_block(student: Wan, x0: Tensor, text: list[KeysValues], cache: KVCache) -> KVCache:
    """The cache after the finished block `x0` [B F C H W] was read at timestep 0. No gradient enters a cache."""
    return cache.append(x0.shape[1], student.keys_values(x0, text, start=cache.frames, past=cache.past()))


@dataclass(frozen=True)
class Past:
    """The clean frames before windows. Windows that follow the same frames share a row, which is read once for all."""

    frames: Tensor
    """[R P C H W]."""
    padding: tuple[int, ...]
    """Of each row: how many of its first frames are filler, where the video is younger than P frames."""
    rows: tuple[int, ...]
    """Of each window: the row that it follows."""


def denoise_window(
    student: Wan,
    x_t: Tensor,
    timestep: Tensor,
    text: list[KeysValues],
    past: Past,
    clean: Tensor,
    block_frames: int,
    context_frames: int,
) -> Tensor:
    """Velocity of all blocks of a window in one pass, each seeing itself and the clean frames before it.

    `x_t` [B K C H W] at `timestep` [B K]; `clean` [B K - block C H W] are the window's own finished frames but its last
    block (which nobody sees). P and the paddings are multiples of the block; windows of one row have one text. Clean
    keys and values carry no gradient. Positions count from the first clean frame: attention sees differences only.
    """
    frames, history = x_t.shape[1], past.frames.shape[1]
    seen = min(history, context_frames)
    padding = [max(0, past.padding[row] - (history - seen)) for row in past.rows]
    tokens, device = student.config.tokens_per_frame(*x_t.shape[-2:]), x_t.device
    with torch.no_grad():
        before = _read_past(student, past, text, block_frames, context_frames, tokens)
        if clean.shape[1]:
            visibility = _clean_visibility(seen, clean.shape[1], block_frames, context_frames, tokens, padding, device)
            own = student.keys_values(clean, text, start=history, past=before, visibility=visibility)
            before = [(layer,) for layer in own] if before is None else [
                (*layer, more) for layer, more in zip(before, own, strict=True)
            ]  # fmt: skip
    visibility = _noisy_visibility(seen, frames, block_frames, context_frames, tokens, padding, device)
    return student.run(x_t, timestep, text, start=history, past=before, visibility=visibility)


def _read_past(
    student: Wan, past: Past, text: list[KeysValues], block: int, context: int, tokens: int
) -> list[Segments] | None:
    """What windows see of their past, one row per window, or one for all; None where they see nothing.

    Only the last `context` frames: those before them were needed to read these.
    """
    history, device = past.frames.shape[1], past.frames.device
    if not min(history, context):
        return None
    first_of = [past.rows.index(row) for row in range(len(past.frames))]
    visibility = _clean_visibility(0, history, block, context, tokens, past.padding, device)
    made = student.keys_values(past.frames, _rows(text, first_of), visibility=visibility)
    made = [(keys[:, -context * tokens :], values[:, -context * tokens :]) for keys, values in made]
    return [(layer,) for layer in (made if len(past.frames) == 1 else _rows(made, past.rows))]


def _rows(layers: list[KeysValues], rows: Sequence[int]) -> list[KeysValues]:
    if list(rows) == list(range(len(layers[0][0]))):
        return layers
    return [(keys[list(rows)], values[list(rows)]) for keys, values in layers]


def _clean_visibility(
    before: int, frames: int, block: int, context: int, tokens: int, padding: Sequence[int], device: torch.device
) -> Visibility:
    """Block-causal, rolling, of `frames` clean frames behind `before`: a block sees itself and `context` before it."""
    windows = [(first, max(0, first - context), first + block) for first in range(before, before + frames, block)]
    spans = tuple(
        (_slice(first - before, end - before, tokens), (_slice(oldest, end, tokens),)) for first, oldest, end in windows
    )
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
