"""Cache the student's keys and values: a rolling window of finished blocks, immutable or in place."""

from dataclasses import dataclass, replace

from models.network_config import WanConfig
from models.wan.layers import KeysValues, RollingPast, Segments, join
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

    def past(self, frames: int) -> list[Segments] | None:
        """Return keys and values of all cached frames, layer by layer; None when empty.

        `frames` is the length of the block that reads them, of which only a `RollingCache` takes note.
        """
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

    def past(self, frames: int) -> list[Segments] | None:
        """Return keys and values as `KVCache.past`. Raises RuntimeError for a cache that was appended to."""
        if self.window == []:
            raise RuntimeError("a group's cache was appended to: read the cache that append returned")
        return super().past(frames)


class RollingCache:
    """Caches the keys and values of running videos in place: a pass without gradient copies its own block, no window.

    Each layer has a buffer [B H tokens head_dim] with room for a block behind the window. A pass writes its keys and
    values there and attends to one view; `append` keeps what it is given there. Where the room is used up, the window
    moves to the front: one copy every other block. `append` returns this same cache: only its newest state is read.
    """

    def __init__(self, config: WanConfig, context_frames: int, sink_frames: int = 0, frames: int = 0):
        """Make an empty cache; the arguments are those of `KVCache`."""
        self.config, self.context_frames, self.sink_frames, self.frames = config, context_frames, sink_frames, frames
        self.window_frames = 0
        self._buffers: list[KeysValues] = []
        self._sink: list[KeysValues] = []
        """Keys, at their absolute places, and values of the sink, as slices of tokens [B H tokens head_dim]."""
        self._frame_tokens = self._sink_tokens = self._begin = self._end = 0
        """Tokens of a frame and of the sink; tokens of a buffer between which the window lies, behind the sink."""
        self._placed: tuple[int, int] | None = None
        """Place of the sink's end in the buffers, and the frames by which its keys are moved there."""

    def emptied(self, frames: int) -> "RollingCache":
        """Make an empty cache of the same limits whose first block starts at `frames`."""
        return RollingCache(self.config, self.context_frames, self.sink_frames, frames)

    def past(self, frames: int) -> list[RollingPast] | None:
        """Return the buffers with room at their end for a block of `frames` frames; None when the cache is empty."""
        own = frames * self._frame_tokens
        if not self._end:
            return None
        if self._end + own > self._buffers[0][0].shape[2]:
            self._move_to_front()
        self._place_sink()
        seen = slice(self._begin - self._sink_tokens, self._end + own)
        return [RollingPast(keys[:, :, seen], values[:, :, seen]) for keys, values in self._buffers]

    def append(self, block_frames: int, keys_values: list[KeysValues]) -> "RollingCache":
        """Keep a block of `block_frames` frames, and evict the oldest frames; returns this cache."""
        fills_sink, tokens = self.frames < self.sink_frames, keys_values[0][0].shape[1]
        self.frames += block_frames
        if not fills_sink and not self.context_frames:
            return self
        self._make_room(tokens // block_frames, block_frames, keys_values)
        for buffers, own in zip(self._buffers, keys_values, strict=True):
            for buffer, part in zip(buffers, own, strict=True):
                buffer[:, :, self._end : self._end + tokens].copy_(part.transpose(1, 2))
        self._end += tokens
        if fills_sink:
            self._begin = self._sink_tokens = self._end
            self._sink = [tuple(part[:, :, : self._end].clone() for part in pair) for pair in self._buffers]
            return self
        evicted = max(0, self.window_frames + block_frames - self.context_frames)
        self.window_frames += block_frames - evicted
        self._begin += evicted * self._frame_tokens
        return self

    def fork(self, row: int) -> KVCache:
        """Return the cache of the video at `row`, for any number of continuations of it, before the next block of it.

        It reads these buffers: a group of members shares their memory, as `KVCache.fork` does.
        """

        def of_row(buffers: list[KeysValues], seen: slice) -> list[KeysValues] | None:
            if not buffers or seen.start == seen.stop:
                return None
            return [tuple(part[row : row + 1, :, seen].transpose(1, 2) for part in pair) for pair in buffers]

        return KVCache(
            self.config, self.context_frames, self.sink_frames, self.frames, self.window_frames,
            sink=of_row(self._sink, slice(0, self._sink_tokens)),
            trunk=of_row(self._buffers, slice(self._begin, self._end)),
        )  # fmt: skip

    def _make_room(self, frame_tokens: int, block_frames: int, keys_values: list[KeysValues]) -> None:
        """Allocate the buffers, or enlarge them, so that this block and one more fit behind a full window."""
        self._frame_tokens = frame_tokens
        frames = self.sink_frames + self.context_frames + 2 * block_frames
        held = self._buffers[0][0].shape[2] if self._buffers else 0
        if frames * frame_tokens > held:
            larger = []
            for i, own in enumerate(keys_values):
                pair = tuple(x.new_empty(len(x), x.shape[2], frames * frame_tokens, x.shape[3]) for x in own)
                for new, old in zip(pair, self._buffers[i] if self._buffers else (), strict=False):
                    new[:, :, :held].copy_(old)
                larger.append(pair)
            self._buffers = larger
        if self._end + block_frames * frame_tokens > self._buffers[0][0].shape[2]:
            self._move_to_front()

    def _move_to_front(self) -> None:
        """Move the window behind the sink's place at the front, in pieces that do not overlap."""
        step, length = self._begin - self._sink_tokens, self._end - self._begin
        for pair in self._buffers:
            for buffer in pair:
                for first in range(0, length, step):
                    size = min(step, length - first)
                    target, source = self._sink_tokens + first, self._begin + first
                    buffer[:, :, target : target + size].copy_(buffer[:, :, source : source + size])
        self._begin, self._end = self._sink_tokens, self._sink_tokens + length

    def _place_sink(self) -> None:
        """Write the sink in front of the window, with its keys at the places next to it."""
        gap = max(0, self.frames - self.window_frames - self.sink_frames)
        if self._placed == (self._begin, gap):
            return
        self._placed = self._begin, gap
        place = slice(self._begin - self._sink_tokens, self._begin)
        for (keys, values), (all_keys, all_values) in zip(self._sink, self._buffers, strict=False):
            moved = shift_frames(self.config, keys.transpose(1, 2), gap).transpose(1, 2) if gap else keys
            all_keys[:, :, place].copy_(moved)
            all_values[:, :, place].copy_(values)


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
