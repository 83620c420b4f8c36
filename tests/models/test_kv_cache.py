import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.kv_cache import GroupCache, KVCache
from models.wan.layers import KeysValues, Segments, join
from models.wan.network import Wan
from models.wan.rope import rotary_positions, rotate
from tests.models.small_wan import CONFIG, HEIGHT, TOKENS, WIDTH

many = settings(max_examples=40, deadline=None)


def keys_at(start: int, frames: int) -> Tensor:
    """The same key in every frame, so that a rotated key tells its frame: [1 L H head_dim]."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, TOKENS, 2, 12, generator=generator, dtype=torch.float64).repeat(1, frames, 1, 1)
    return rotate(one, rotary_positions(CONFIG, start, frames, HEIGHT, WIDTH, like=one))


def values_of(frames: list[int]) -> Tensor:
    """Values that carry the number of their frame: [1 L 1 1]."""
    return torch.tensor(frames, dtype=torch.float64).repeat_interleave(TOKENS)[None, :, None, None]


def block_at(start: int, frames: int) -> list[KeysValues]:
    """Keys and values of a block in each of two layers."""
    numbers = list(range(start, start + frames))
    return [(keys_at(start, frames), sign * values_of(numbers)) for sign in (1, -1)]


def filled(block: int, context: int, sink: int, blocks: int) -> list[KVCache]:
    """The empty cache and the cache after each of `blocks` blocks; lengths in blocks."""
    caches = [KVCache(CONFIG, context * block, sink * block)]
    for index in range(blocks):
        caches.append(caches[-1].append(block, block_at(index * block, block)))
    return caches


def remembered(block: int, context: int, sink: int, blocks: int) -> tuple[list[int], list[int]]:
    """Frame numbers that the cache holds, first of the sink and then of the window."""
    frames = list(range(blocks * block))
    later = frames[sink * block :]
    return frames[: sink * block], later[len(later) - min(len(later), context * block) :]


def whole(cache: KVCache) -> list[KeysValues]:
    """What the cache remembers, in one piece, layer by layer."""
    return [join(segments) for segments in cache.past(0) or ()]


def assert_holds(cache: KVCache, sink: list[int], window: list[int]) -> None:
    """The cache gives these frames, in this order, with the sink moved to end where the window begins."""
    if not sink + window:
        assert cache.past(0) is None
        return
    expected_keys = keys_at(cache.frames - len(sink + window), len(sink + window))
    for layer, sign in zip(whole(cache), (1, -1), strict=True):
        assert torch.equal(layer[1], sign * values_of(sink + window))
        torch.testing.assert_close(layer[0], expected_keys, rtol=0, atol=1e-12)


@many
@given(block=st.integers(1, 3), context=st.integers(0, 4), blocks=st.integers(0, 8))
def test_a_cache_without_sink_holds_the_last_context_frames_in_order(block, context, blocks):
    cache = filled(block, context, 0, blocks)[-1]
    assert cache.frames == blocks * block
    assert_holds(cache, *remembered(block, context, 0, blocks))


@many
@given(block=st.integers(1, 3), context=st.integers(1, 4), sink=st.integers(1, 3), blocks=st.integers(0, 9))
def test_sink_frames_stay_for_ever_right_before_the_window(block, context, sink, blocks):
    cache = filled(block, context, sink, blocks)[-1]
    assert_holds(cache, *remembered(block, context, sink, blocks))


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_sink_frames_stay_right_before_the_next_block_where_there_is_no_window(blocks):
    assert_holds(filled(block=2, context=0, sink=1, blocks=blocks)[-1], *remembered(2, 0, 1, blocks))


@many
@given(block=st.integers(1, 3), context=st.integers(0, 3), sink=st.integers(0, 2), blocks=st.integers(1, 8))
def test_a_cache_never_changes_whatever_is_appended_to_it_later(block, context, sink, blocks):
    caches = filled(block, context, sink, blocks)
    for length, cache in enumerate(caches):
        alone = filled(block, context, sink, length)[-1]
        assert (cache.frames, cache.window_frames) == (alone.frames, alone.window_frames)
        for layer, expected in zip(whole(cache), whole(alone), strict=True):
            assert torch.equal(layer[0], expected[0]) and torch.equal(layer[1], expected[1])


def test_a_cache_is_forked_by_appending_to_it_twice():
    trunk = filled(block=2, context=2, sink=0, blocks=3)[-1]
    other = [(keys + 1, values + 100) for keys, values in block_at(6, 2)]
    left, right = trunk.append(2, block_at(6, 2)), trunk.append(2, other)
    assert_holds(left, [], [4, 5, 6, 7])
    assert torch.equal(whole(right)[0][1], values_of([4, 5, 106, 107]))


def of_two_videos(sink: int) -> KVCache:
    """A full cache of two videos; the second's values are the first's and 1000 more."""
    cache = KVCache(CONFIG, context_frames=4, sink_frames=sink)
    for start in range(0, 8, 2):
        layers = [(keys.repeat(2, 1, 1, 1), values.repeat(2, 1, 1, 1)) for keys, values in block_at(start, 2)]
        for _, values in layers:
            values[1] += 1000
        cache = cache.append(2, layers)
    return cache


@pytest.mark.parametrize("sink", [0, 2])
def test_members_read_the_memory_of_their_video_until_its_frames_have_left_the_window(sink):
    cache = of_two_videos(sink)
    fork = cache.fork(row=1)
    assert (fork.frames, fork.window_frames, fork.sink_frames) == (cache.frames, cache.window_frames, sink)
    own = [(keys.repeat(5, 1, 1, 1), values.repeat(5, 1, 1, 1)) for keys, values in block_at(8, 2)]
    for left in (4, 2, 0):
        assert [keys.shape[:2] for keys, _ in fork.trunk or ()] == [(1, left * TOKENS)] * (2 if left else 0)
        for layer, of_all in zip(fork.trunk or (), cache.window, strict=left > 0):
            for tensor, videos in zip(layer, of_all, strict=True):
                assert tensor.data_ptr() == videos[1, (4 - left) * TOKENS :].data_ptr()
        for layer, of_all in zip(fork.sink or (), cache.sink or (), strict=True):
            assert all(a.data_ptr() == b[1].data_ptr() for a, b in zip(layer, of_all, strict=True))
        fork = fork.append(2, own)


@pytest.mark.parametrize("sink", [0, 2])
def test_members_that_go_on_leave_the_forked_cache_and_each_other_alone(sink):
    cache = of_two_videos(sink)
    before = [(keys.clone(), values.clone()) for keys, values in whole(cache)]
    own = [
        (keys.repeat(3, 1, 1, 1), values + torch.arange(3.0)[:, None, None, None]) for keys, values in block_at(8, 2)
    ]
    after = cache.fork(row=1).append(2, own)
    for layer, kept in zip(whole(cache), before, strict=True):
        assert torch.equal(layer[0], kept[0]) and torch.equal(layer[1], kept[1])
    values = whole(after)[0][1]
    assert torch.equal(values[:, -2 * TOKENS :], own[0][1])
    assert torch.equal(values[:, : -2 * TOKENS], values[:1, : -2 * TOKENS].expand(3, -1, -1, -1))


@pytest.mark.parametrize("sink", [0, 2])
def test_a_fork_of_a_fork_has_the_past_of_its_member(sink):
    own = [
        (keys.repeat(3, 1, 1, 1), values + torch.arange(3.0)[:, None, None, None]) for keys, values in block_at(8, 2)
    ]
    members = of_two_videos(sink).fork(row=1).append(2, own)
    for (keys, values), (all_keys, all_values) in zip(whole(members.fork(row=2)), whole(members), strict=True):
        assert torch.equal(keys, all_keys[2:]) and torch.equal(values, all_values[2:])


@pytest.mark.parametrize("sink", [0, 2])
def test_a_groups_cache_holds_what_a_kept_one_does_frees_each_layer_and_leaves_the_past_alone(sink):
    forked = of_two_videos(sink)
    kept, taken = forked.fork(row=1), GroupCache(**vars(forked.fork(row=1)))
    for start in range(8, 20, 2):
        block = [(keys.repeat(3, 1, 1, 1), values.repeat(3, 1, 1, 1)) for keys, values in block_at(start, 2)]
        before, freed = taken, [weakref.ref(keys) for keys, _ in taken.window or ()]
        kept, taken = kept.append(2, block), taken.append(2, list(block))
        for one, other in zip(whole(kept), whole(taken), strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        del block
        if start > 10:  # the first block's own keys are the test's
            assert all(ref() is None for ref in freed)
        if freed:
            with pytest.raises(RuntimeError):
                before.past(0)
    assert_holds(forked.fork(row=0), list(range(sink)), [4, 5, 6, 7])


def test_a_fork_of_an_empty_cache_is_empty():
    assert KVCache(CONFIG, context_frames=4).fork(row=1) == KVCache(CONFIG, context_frames=4)


def test_a_cache_can_start_at_any_frame_of_a_video_that_went_before():
    cache = KVCache(CONFIG, context_frames=2, frames=40).append(2, block_at(40, 2)).append(2, block_at(42, 2))
    assert_holds(cache, [], [42, 43])


class RememberEverything:
    """The slow cache: keeps every clean frame, and before each block works out again what it may see.

    Sink frames are read anew as if the video had begun `sink` frames before the window: no key is ever moved.
    """

    def __init__(self, student: Wan, text: list[KeysValues], block: int, context: int, sink: int):
        self.student, self.text, self.block, self.context, self.sink = student, text, block, context, sink
        self.frames: list[Tensor] = []
        self.made: list[list[KeysValues]] = []

    def past(self) -> list[Segments] | None:
        blocks, sink = len(self.frames), self.sink // self.block
        kept = self.made[sink:][-(self.context // self.block) :] if self.context else []
        first = (blocks - len(kept)) * self.block
        parts = []
        for frames in self.frames[:sink]:
            start = first - (min(sink, blocks) - len(parts)) * self.block
            parts.append(self.student.keys_values(frames, self.text, start=start, past=joined(parts)))
        return joined([*parts, *kept])

    def append(self, frames: Tensor) -> None:
        start = len(self.frames) * self.block
        self.made.append(self.student.keys_values(frames, self.text, start=start, past=self.past()))
        self.frames.append(frames)


def joined(parts: list[list[KeysValues]]) -> list[Segments] | None:
    """Blocks of keys and values one after the other, layer by layer."""
    if not parts:
        return None
    layers = zip(*parts, strict=True)
    return [(tuple(torch.cat(tensors, dim=1) for tensors in zip(*layer, strict=True)),) for layer in layers]


@pytest.mark.parametrize(("block", "context", "sink"), [(1, 3, 0), (1, 2, 1), (2, 4, 2), (1, 1, 2), (2, 2, 4)])
def test_the_past_of_a_network_equals_remembering_everything_with_and_without_a_sink(block, context, sink):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        student = Wan(CONFIG).double().requires_grad_(False)
        for p in student.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
        text = student.text_keys_values(torch.randn(2, 5, CONFIG.text_dim, dtype=torch.float64))
        video = torch.randn(2, 8 * block, 2, HEIGHT, WIDTH, dtype=torch.float64)
    slow, cache = RememberEverything(student, text, block, context, sink), KVCache(CONFIG, context, sink)
    for start in range(0, 8 * block, block):
        frames = video[:, start : start + block]
        past = cache.past(0)
        for layer, (expected,) in zip(whole(cache), slow.past() or (), strict=True):
            torch.testing.assert_close(layer, expected, rtol=0, atol=1e-10)
        cache = cache.append(block, student.keys_values(frames, text, start=start, past=past))
        slow.append(frames)
