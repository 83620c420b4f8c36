"""Run the student: Wan's weights with block-causal attention over finished blocks.

Three ways to run it, equal where they overlap (tests/models/test_causal.py):
`denoise_block` and `write_block` on a rolling cache, as at inference; `denoise_window`, all blocks of a window at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from models.kv_cache import KVCache, RollingCache
from models.noise import to_device
from models.wan.attention import Visibility
from models.wan.layers import KeysValues, Segments
from models.wan.network import Wan

Cache = TypeVar("Cache", KVCache, RollingCache)


def denoise_block(student: Wan, x_t: Tensor, timestep: Tensor, text: list[KeysValues], cache: Cache) -> Tensor:
    """Return the velocity of the next block `x_t` [B F C H W] at `timestep` [B F]."""
    return student.run(x_t, timestep, text, start=cache.frames, past=cache.past(x_t.shape[1]))


@torch.no_grad()
def write_block(student: Wan, x0: Tensor, text: list[KeysValues], cache: Cache) -> Cache:
    """Return the cache after reading the finished block `x0` [B F C H W] at timestep 0, without gradient."""
    return cache.append(x0.shape[1], student.keys_values(x0, text, start=cache.frames, past=cache.past(x0.shape[1])))


@dataclass(frozen=True)
class Past:
    """Holds the clean frames before windows. Windows that follow the same frames share a row, read once for all.

    Example: two members of a group that follow 6 frames, and a window at frame 3: frames [2 6 C H W], padding (0, 3),
    rows (0, 0, 1), starts (9, -3) where the group forks at frame 15.
    """

    frames: Tensor
    """[R P C H W]."""
    padding: tuple[int, ...]
    """Number of filler frames at the beginning of each row, where the video is younger than P frames."""
    rows: tuple[int, ...]
    """Row of the past that each window follows."""
    starts: tuple[int, ...]
    """Frame of its video that each row begins with, fillers included."""


def denoise_window(
    student: Wan,
    x_t: Tensor,
    timestep: Tensor,
    text: list[KeysValues],
    past: Past,
    clean: Tensor,
    block_frames: int,
    context_frames: int,
    context_gradient: bool = False,
) -> Tensor:
    """Return the velocity of all blocks of a window in one pass, each seeing itself and the clean frames before it.

    `x_t` [B K C H W] at `timestep` [B K]; `clean` [B K - block C H W] are the window's own finished frames but its last
    block, which no block sees. P and the paddings are multiples of the block; windows of one row have one text.
    Clean keys and values carry no gradient, unless `context_gradient` trains their writer too (Self Gradient Forcing,
    arXiv 2607.20368); the clean latents are data either way. Positions are those of the video: attention sees
    differences only, but bfloat16 rounds a rotated key by its position, and the actor's keys are to be met.
    """
    frames, history = x_t.shape[1], past.frames.shape[1]
    seen = min(history, context_frames)
    padding = [max(0, past.padding[row] - (history - seen)) for row in past.rows]
    start = [past.starts[row] + history for row in past.rows]
    tokens, device = student.config.tokens_per_frame(*x_t.shape[-2:]), x_t.device
    before: list[Segments] | None = None
    with torch.set_grad_enabled(context_gradient and torch.is_grad_enabled()):
        # Compiled blocks would have another graph for a text that requires gradients.
        still = text if context_gradient else [(keys.detach(), values.detach()) for keys, values in text]
        if seen:
            # Only the last `seen` frames of the past are kept: those before them were needed to read these.
            first_of = [past.rows.index(row) for row in range(len(past.frames))]
            visibility = _clean_visibility(0, history, block_frames, context_frames, tokens, past.padding, device)
            layers = student.keys_values(past.frames, _rows(still, first_of), start=past.starts, visibility=visibility)
            layers = [(keys[:, -seen * tokens :], values[:, -seen * tokens :]) for keys, values in layers]
            before = [(layer,) for layer in (layers if len(past.frames) == 1 else _rows(layers, past.rows))]
        if clean.shape[1]:
            visibility = _clean_visibility(seen, clean.shape[1], block_frames, context_frames, tokens, padding, device)
            own = student.keys_values(clean, still, start=start, past=before, visibility=visibility)
            before = [(layer,) for layer in own] if before is None else [
                (*layer, more) for layer, more in zip(before, own, strict=True)
            ]  # fmt: skip
    # A noisy block sees `context_frames` clean frames before it, and itself behind all clean frames.
    spans, masks, own_first = [], [], seen + frames - block_frames
    for first in range(0, frames, block_frames):
        oldest, end = max(0, seen + first - context_frames), seen + first
        own = slice((own_first + first) * tokens, (own_first + first + block_frames) * tokens)
        spans.append(
            (slice(first * tokens, (first + block_frames) * tokens), (slice(oldest * tokens, end * tokens), own))
        )
        masks.append(_mask(oldest, end, block_frames, tokens, padding, device))
    visibility = Visibility(tuple(spans), tuple(masks))
    return student.run(x_t, timestep, text, start=start, past=before, visibility=visibility)


def _rows(layers: list[KeysValues], rows: Sequence[int]) -> list[KeysValues]:
    """Select batch rows; without a copy where they are all rows in order."""
    if list(rows) == list(range(len(layers[0][0]))):
        return layers
    index = to_device(torch.tensor(rows), layers[0][0].device)  # a list would be copied, and waited for, by each layer
    return [(keys[index], values[index]) for keys, values in layers]


def _clean_visibility(
    before: int, frames: int, block: int, context: int, tokens: int, padding: Sequence[int], device: torch.device
) -> Visibility:
    """Let each block of `frames` clean frames behind `before` see itself and `context` frames before it."""
    spans, masks = [], []
    for first in range(before, before + frames, block):
        oldest, end = max(0, first - context), first + block
        rows = slice((first - before) * tokens, (end - before) * tokens)
        spans.append((rows, (slice(oldest * tokens, end * tokens),)))
        masks.append(_mask(oldest, first, block, tokens, padding, device))
    return Visibility(tuple(spans), tuple(masks))


def _mask(
    oldest: int, end: int, block: int, tokens: int, padding: Sequence[int], device: torch.device
) -> Tensor | None:
    """Mask [B 1 1 keys] over frames `oldest`..`end` and the block itself, which is always seen: no row is empty.

    None without any filler, for the unmasked kernel. With filler all spans have masks, of which some hide nothing: else
    each padding would be a graph of its own in compiled blocks.
    """
    if not any(padding):
        return None
    first_real = torch.tensor(padding)[:, None]
    before = torch.arange(oldest, end)[None] >= first_real
    own = torch.ones(len(padding), block, dtype=torch.bool)
    return to_device(torch.cat([before, own], dim=1), device).repeat_interleave(tokens, dim=1)[:, None, None]
