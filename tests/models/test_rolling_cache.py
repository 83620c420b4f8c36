"""The cache in place against the immutable one: the same bits, with a sink, pieces of several lengths, and forks."""

import pytest
import torch

import models.sampler
from models.causal import denoise_block, write_block
from models.kv_cache import KVCache, RollingCache
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.layers import KeysValues
from models.wan.network import Wan
from tests.models.small_wan import CONFIG, HEIGHT, WIDTH


@pytest.fixture(scope="module")
def student() -> Wan:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        student = Wan(CONFIG).requires_grad_(False)
        for p in student.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return student


def row(text: list[KeysValues], i: int) -> list[KeysValues]:
    return [(keys[i : i + 1], values[i : i + 1]) for keys, values in text]


@torch.no_grad()
@pytest.mark.parametrize(
    ("pieces", "context", "sink"),
    [
        ((1,) * 9, 3, 0), ((2,) * 7, 2, 0), ((1, *(2,) * 7), 4, 0), ((1, *(2,) * 7), 4, 3), ((2,) * 6, 4, 2),
        ((1,) * 4, 0, 0), ((2,) * 3, 0, 2), ((1,) * 7, 1, 3), ((3, 3, 3, 3), 6, 0),
    ],
)  # fmt: skip
def test_a_cache_in_place_gives_the_bits_of_the_immutable_one(student, pieces, context, sink):
    text = student.text_keys_values(torch.randn(2, 5, CONFIG.text_dim))
    immutable, rolling = KVCache(CONFIG, context, sink), RollingCache(CONFIG, context, sink)
    for frames in pieces:
        x_t = torch.randn(2, frames, 2, HEIGHT, WIDTH)
        for sigma in (900.0, 300.0):
            level = torch.full((2, frames), sigma)
            assert torch.equal(*(denoise_block(student, x_t, level, text, one) for one in (immutable, rolling)))
        forks = immutable.fork(1), rolling.fork(1)
        for _ in range(2):  # a member's blocks leave the fork as it is
            read = [denoise_block(student, x_t[1:], level[1:], row(text, 1), fork) for fork in forks]
            assert torch.equal(*read)
            for fork in forks:
                write_block(student, x_t[1:], row(text, 1), fork)
        immutable, rolling = (write_block(student, x_t, text, one) for one in (immutable, rolling))


@torch.no_grad()
def test_a_full_cache_allocates_nothing_more_and_a_pass_leaves_what_was_appended(student):
    text, cache = student.text_keys_values(torch.randn(1, 5, CONFIG.text_dim)), RollingCache(CONFIG, 3)
    storages = set()
    for _ in range(12):
        x_t, level = torch.randn(1, 1, 2, HEIGHT, WIDTH), torch.full((1, 1), 900.0)
        before = [slots.keys.clone() for slots in cache.past(1) or ()]
        denoise_block(student, x_t, level, text, cache)
        tokens = CONFIG.tokens_per_frame(HEIGHT, WIDTH)
        for kept, slots in zip(before, cache.past(1) or (), strict=True):
            assert torch.equal(kept[:, :, :-tokens], slots.keys[:, :, :-tokens])
            storages.add(slots.keys.untyped_storage().data_ptr())
        cache = write_block(student, x_t, text, cache)
    assert len(storages) == CONFIG.num_layers


def test_text_is_read_once_per_version_of_the_weights(student, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Wan, "text_keys_values", lambda self, text, own=Wan.text_keys_values: calls.append(1) or own(self, text)
    )
    text, noise = torch.randn(1, 5, CONFIG.text_dim), BlockNoise([0], (1, 2, HEIGHT, WIDTH))
    own = Wan(CONFIG).requires_grad_(False)
    own.load_state_dict(student.state_dict())
    blocks = models.sampler.stream_blocks(own, text, noise, [1.0, 0.5], RollingCache(CONFIG, 2))
    for _ in range(3):
        next(blocks)
    assert len(calls) == 1
    for change in ({"assign": True}, {}):
        newer = {name: value + 0.1 for name, value in own.state_dict().items()}
        own.load_state_dict(newer, **change)
        made = next(blocks)
        next(blocks)
        fresh = stream_blocks(own, text, noise, [1.0, 0.5], made.cache.emptied(0))
        next(fresh)
    assert len(calls) == 5, "one for each version, and those of the fresh streams"
