"""Cache the student's keys and values: a rolling window of finished blocks."""

from dataclasses import dataclass, replace

from models.network_config import WanConfig
from models.wan.layers import KeysValues, Segments, join
from models.wan.rope import shift_frames


@dataclass(frozen=True)
class KVCache:
    """Caches keys and values immutably: `append` returns a new cache, and no tensor in a cache is written again.

    A graph built on an older cache stays valid, and a rollout is forked by keeping a reference. Lengths are Python
    integers, so no layer waits for the device. One append copies the window once per block, not once per pass.
    """

    config: WanConfig
    context_frames: int
    """Finished frames that a new block sees: the attention window less the block itself (21 - 3 in Wan)."""
    sink_frames: int = 0
    """First frames of the video that are never evicted. The paper uses none."""
    frames: int = 0
    """Frames appended so far: where the next block starts."""
    window_frames: int = 0
    """Frames in the window, without the sink's."""
    sink: list[KeysValues] | None = None
    trunk: list[KeysValues] | None = None
    """Cached frames from before a fork: one row, which all members read."""
    window: list[KeysValues] | None = None

    def append(self, block_frames: int, keys_values: list[KeysValues]) -> "KVCache":
        """Return the cache after a block of `block_frames` frames; the oldest frames are evicted."""
        frames = self.frames + block_frames
        if self.frames < self.sink_frames:
            sink = keys_values if self.sink is None else list(map(join, zip(self.sink, keys_values, strict=True)))
            return replace(self, frames=frames, sink=sink)
        if not self.context_frames:
            return replace(self, frames=frames)
        evicted = max(0, self.window_frames + block_frames - self.context_frames)
        tokens = evicted * (keys_values[0][0].shape[1] // block_frames)
        trunk_tokens = 0 if self.trunk is None else self.trunk[0][0].shape[1]
        return replace(
            self,
            frames=frames,
            window_frames=self.window_frames + block_frames - evicted,
            trunk=_without(self.trunk, tokens),
            window=self._grown(tokens - trunk_tokens, keys_values),
        )

    def _grown(self, tokens: int, keys_values: list[KeysValues]) -> list[KeysValues]:
        """Return the window without its oldest `tokens`, and with a block behind it."""
        window = _without(self.window, tokens)
        return keys_values if window is None else list(map(join, zip(window, keys_values, strict=True)))

    def fork(self, row: int) -> "KVCache":
        """Return the cache of the video at `row`, for any number of continuations of it.

        All members read this video's memory until its frames have left the window; a layer that attends joins it with
        the members' own, for as long as it attends.
        """
        window = _row(self.window, row)
        if self.trunk is not None:
            window = self.trunk if window is None else list(map(join, zip(self.trunk, window, strict=True)))
        return replace(self, sink=_row(self.sink, row), trunk=window, window=None)

    def past(self) -> list[Segments] | None:
        """Return keys and values of all cached frames, layer by layer; None when empty."""
        sink = self.sink
        # Left at its absolute place, a sink's distance to the queries would grow past everything seen in training.
        gap = max(0, self.frames - self.window_frames - self.sink_frames)
        if sink is not None and gap:
            sink = [(shift_frames(self.config, keys, gap), values) for keys, values in sink]
        parts = [part for part in (sink, self.trunk, self.window) if part is not None]
        return list(zip(*parts, strict=True)) if parts else None


@dataclass(frozen=True)
class GroupCache(KVCache):
    """Caches the members of a group: an append takes the window away layer by layer, and only the newest is read.

    Held twice while it grows, the window of eight members takes 83 GB of Wan 1.3B in bfloat16, and once 41. The past
    that was forked is never taken.
    """

    def _grown(self, tokens: int, keys_values: list[KeysValues]) -> list[KeysValues]:
        if self.window is None:
            return keys_values
        grown = []
        for own in keys_values:
            before = _without([self.window.pop(0)], tokens)
            grown.append(own if before is None else join((*before, own)))
        return grown

    def past(self) -> list[Segments] | None:
        """Return keys and values as `KVCache.past`. Raises RuntimeError for a cache that was appended to."""
        if self.window == []:
            raise RuntimeError("a group's cache was appended to: read the cache that append returned")
        return super().past()


def _without(layers: list[KeysValues] | None, tokens: int) -> list[KeysValues] | None:
    """Return a view without the oldest `tokens`; None where nothing is left."""
    if tokens <= 0 or layers is None:
        return layers
    if tokens >= layers[0][0].shape[1]:
        return None
    return [(keys[:, tokens:], values[:, tokens:]) for keys, values in layers]


def _row(layers: list[KeysValues] | None, row: int) -> list[KeysValues] | None:
    if layers is None or len(layers[0][0]) == 1:  # one row serves all members
        return layers
    return [(keys[row : row + 1], values[row : row + 1]) for keys, values in layers]
