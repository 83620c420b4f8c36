import random
from dataclasses import asdict, replace

import pytest
import torch

from cluster.runs.trajectory_index import Shard, TrajectoryEntry, TrajectoryIndex, checksum, decode, encode
from tests.cluster.runs.trajectories import origin

INDEX = TrajectoryIndex(
    origin(),
    {
        shard: Shard(
            1000 * shard,
            tuple(TrajectoryEntry(3 * shard + i, f"prompt {i}", 2**61 + i, shard, i, bytes([i] * 8)) for i in range(3)),
        )
        for shard in (0, 2, 5)
    },
)


def beginnings():
    """What may be left of INDEX when its end is damaged: the origin, with the first shards."""
    shards = list(INDEX.shards.items())
    return [TrajectoryIndex(INDEX.origin, dict(shards[:n])) for n in range(len(shards) + 1)]


def test_an_index_comes_back_as_it_was():
    assert decode(encode(INDEX)) == (INDEX, True)
    empty = TrajectoryIndex(origin(), {})
    assert decode(encode(empty)) == (empty, True)


def test_of_an_index_that_is_cut_anywhere_its_beginning_is_left_or_nothing():
    content, left = encode(INDEX), []
    for end in range(len(content)):
        try:
            index, whole = decode(content[:end])
        except ValueError as error:
            assert "origin" in str(error)
            continue
        assert index in beginnings()[:-1] and whole == (encode(index) == content[:end])
        left.append(len(index.shards))
    assert set(left) == {0, 1, 2}


def test_no_changed_byte_is_believed():
    content, draw = encode(INDEX), random.Random(0)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= draw.randrange(1, 256)
        try:
            index, whole = decode(bytes(changed))
        except ValueError:
            continue
        assert index in beginnings()[:-1] and not whole, place


@pytest.mark.parametrize("content", [b"", b"\xc1", b"junk", b"\x80" * 50, encode(INDEX)[1:]])
def test_what_is_no_index_is_refused(content):
    with pytest.raises(ValueError, match="origin"):
        decode(content)


@pytest.mark.parametrize("name", asdict(origin()))
def test_origins_that_differ_in_anything_say_in_what(name):
    value = getattr(origin(), name)
    other = [*value, 7] if isinstance(value, list) else f"{value}x" if isinstance(value, str) else value + 1
    assert str(other) in origin().difference(replace(origin(), **{name: other}))
    assert origin().difference(origin()) is None


def test_a_checksum_tells_tensors_that_differ_in_one_bit_or_in_their_order():
    one, other = torch.randn(2, 4, 5).to(torch.bfloat16).unbind()
    changed = one.clone()
    changed.view(torch.int16)[3, 4] ^= 1
    assert len({checksum(*tensors) for tensors in ((one, other), (other, one), (changed, other), (one,))}) == 4
    assert checksum(one, other) == checksum(one.clone(), other.clone())
