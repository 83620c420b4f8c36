"""The student's memory: keys and values of finished blocks, a rolling window of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.config import WanConfig
from models.layers import KeysValues
from models.rope import shift_frames


@dataclass(frozen=True)
class KVCache:
    """Immutable cache. `append` returns a new one; tensors that a cache holds are never written again.

    A graph built on an older cache stays valid, and a rollout is forked by keeping a reference. Lengths are Python
    integers, so no layer waits for the device. One append copies the window once per block, not once per pass.
    """

    config: WanConfig
    context_frames: int
    """Finished frames that a new block sees: the attention window less the block itself (21 - 3 in Wan)."""
    sink_frames: int = 0
    """First frames of the video that are never forgotten, beside the window. The paper uses none."""
    frames: int = 0
    """Frames appended so far: where the next block starts."""
    window_frames: int = 0
    window: list[KeysValues] | None = None
    sink: list[KeysValues] | None = None

    def append(self, block_frames: int, keys_values: list[KeysValues]) -> "KVCache":
        """The cache after a block of `block_frames` frames; the oldest frames leave, first in first out."""
        frames = self.frames + block_frames
        if self.frames < self.sink_frames:
            sink = _extend(self.sink, 0, keys_values)
            return replace(self, frames=frames, sink=sink)
        if not self.context_frames:
            return replace(self, frames=frames)
        evicted = max(0, self.window_frames + block_frames - self.context_frames)
        tokens_per_frame = keys_values[0][0].shape[1] // block_frames
        window = _extend(self.window, evicted * tokens_per_frame, keys_values)
        return replace(self, frames=frames, window_frames=self.window_frames + block_frames - evicted, window=window)

    def fork(self, row: int, members: int) -> "KVCache":
        """The cache of one of the videos, for `members` continuations of it. Nothing is copied: they read one memory.

        It stays shared until they append blocks of their own.
        """
        return replace(self, window=_shared(self.window, row, members), sink=_shared(self.sink, row, members))

    def past(self) -> list[KeysValues] | None:
        """Keys and values of all remembered frames, layer by layer, each [B L H head_dim]; None when empty."""
        if self.sink is None:
            return self.window
        # Left at its absolute place, a sink's distance to the queries would grow past everything seen in training.
        gap = max(0, self.frames - self.window_frames - self.sink_frames)
        sink = [(shift_frames(self.config, keys, gap), values) for keys, values in self.sink] if gap else self.sink
        return sink if self.window is None else _extend(sink, 0, self.window)


def _extend(old: list[KeysValues] | None, evicted_tokens: int, new: list[KeysValues]) -> list[KeysValues]:
    if old is None:
        return new

    def extend(before: Tensor, after: Tensor) -> Tensor:
        return torch.cat([before[:, evicted_tokens:], after], dim=1)

    return [(extend(a[0], b[0]), extend(a[1], b[1])) for a, b in zip(old, new, strict=True)]


def _shared(layers: list[KeysValues] | None, row: int, members: int) -> list[KeysValues] | None:
    if layers is None:
        return None
    return [tuple(x[row : row + 1].expand(members, *x.shape[1:]) for x in layer) for layer in layers]
