"""Packed tensors are the same bytes, and damage is noticed."""

from dataclasses import replace

import numpy
import pytest
import torch

from cluster.supply.tensor_bytes import (
    ByteViews,
    ChecksumMismatch,
    pack_tensors,
    unpack_tensors,
    verify,
    view_bytes,
    view_tensors,
)
from learner.trained_network import FlatCopy


def tensors(dtype=torch.float32):
    return {
        "a": torch.randn(3, 5).to(dtype),
        "strided": torch.randn(6, 4).to(dtype).t(),
        "scalar": torch.randn(()).to(dtype),
        "empty": torch.empty(0, 2, dtype=dtype),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_unpacked_tensors_are_bit_equal_and_keep_dtype_and_shape(dtype):
    original = tensors(dtype)
    packed = pack_tensors(original)
    verify(packed)
    unpacked = unpack_tensors(packed)
    assert list(unpacked) == list(original)
    for name, tensor in original.items():
        assert unpacked[name].dtype == dtype and torch.equal(unpacked[name], tensor)


def test_packing_and_unpacking_share_the_memory_of_a_contiguous_tensor():
    original = {"a": torch.zeros(4, requires_grad=True)}
    packed = pack_tensors(original)
    with torch.no_grad():
        original["a"].fill_(3)
    assert torch.equal(unpack_tensors(packed)["a"], torch.full((4,), 3.0))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_flipped_bit_is_noticed(number):
    packed = pack_tensors(tensors())
    chunks = [chunk.copy() for chunk in packed.views.chunks]
    chunks[number][-1] ^= 1
    with pytest.raises(ChecksumMismatch, match=r"a, strided, scalar, empty: checksum .* damaged"):
        verify(replace(packed, views=ByteViews(chunks, packed.views.entries)))


def test_another_name_dtype_or_shape_over_the_same_bytes_is_noticed():
    packed = pack_tensors({"a": torch.zeros(2, 6)})
    dtype, shape, *place = packed.views.entries["a"]
    for entries in (
        {"b": (dtype, shape, *place)},
        {"a": ("int32", shape, *place)},
        {"a": (dtype, (6, 2), *place)},
        {},
    ):
        with pytest.raises(ChecksumMismatch):
            verify(replace(packed, views=ByteViews(packed.views.chunks, entries)))


def test_a_flat_copy_is_equal_travels_as_one_chunk_and_uses_its_memory_again():
    original = tensors() | {"bytes": torch.arange(3, dtype=torch.uint8), "last": torch.randn(9).bfloat16()}
    flat = FlatCopy(original)
    for step in range(2):
        changed = {name: tensor + step for name, tensor in original.items()}
        views = view_bytes(flat.of(changed))
        assert len(views.chunks) == 1
        assert views.chunks[0].ctypes.data == flat.tensors["a"].data_ptr()
        for name, tensor in view_tensors(views).items():
            assert tensor.dtype == original[name].dtype and torch.equal(tensor, changed[name])


def test_parts_of_one_memory_that_are_out_of_order_apart_or_unaligned_stay_apart():
    memory = torch.arange(1000, dtype=torch.uint8)
    parts = {
        "second": memory[64:128],
        "first": memory[:64],
        "apart": memory[256:300],
        "unaligned": memory[301:303],
        "word": memory[304:312].view(torch.int64),
        "again": memory[304:312],
    }
    views = view_bytes(parts)
    assert len(views.chunks) == len(parts)
    for name, tensor in view_tensors(views).items():
        assert torch.equal(tensor, parts[name])


@pytest.mark.ray
def test_readers_of_a_node_see_packed_tensors_in_place_aligned_and_read_only(local_ray):
    packed = pack_tensors({"a": torch.randn(1000, 1000).bfloat16(), "b": torch.randn(33)})
    reference = local_ray.put(packed)
    first, second = local_ray.get(reference), local_ray.get(reference)
    verify(first)
    for mine, other in zip(first.views.chunks, second.views.chunks, strict=True):
        assert isinstance(mine, numpy.ndarray) and not mine.flags.writeable
        assert mine.ctypes.data % 8 == 0
        assert mine.ctypes.data == other.ctypes.data, "a copy was made"
    assert unpack_tensors(first)["b"].data_ptr() == first.views.chunks[1].ctypes.data
