"""Packed tensors are the same bytes, and damage is noticed."""

from dataclasses import replace

import numpy
import pytest
import torch

from cluster.packing import ChecksumMismatch, pack_tensors, unpack_tensors, verify


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


@pytest.mark.parametrize("name", ["a", "strided", "scalar"])
def test_one_flipped_bit_is_named(name):
    packed = pack_tensors(tensors())
    dtype, shape, array = packed.arrays[name]
    array = array.copy()
    array[-1] ^= 1
    with pytest.raises(ChecksumMismatch, match=f"{name}.*damaged"):
        verify(replace(packed, arrays=packed.arrays | {name: (dtype, shape, array)}))


def test_another_name_dtype_or_shape_over_the_same_bytes_is_noticed():
    packed = pack_tensors({"a": torch.zeros(2, 6)})
    dtype, shape, array = packed.arrays["a"]
    for arrays in (
        {"b": (dtype, shape, array)},
        {"a": ("int32", shape, array)},
        {"a": (dtype, (6, 2), array)},
        {},
    ):
        with pytest.raises(ChecksumMismatch):
            verify(replace(packed, arrays=arrays))


@pytest.mark.ray
def test_readers_of_a_node_see_packed_tensors_in_place_aligned_and_read_only(local_ray):
    packed = pack_tensors({"a": torch.randn(1000, 1000).bfloat16(), "b": torch.randn(33)})
    reference = local_ray.put(packed)
    first, second = local_ray.get(reference), local_ray.get(reference)
    verify(first)
    for name, (_, _, array) in first.arrays.items():
        assert isinstance(array, numpy.ndarray) and not array.flags.writeable
        assert array.ctypes.data % 8 == 0
        assert array.ctypes.data == second.arrays[name][2].ctypes.data, "a copy was made"
        assert unpack_tensors(first)[name].data_ptr() == array.ctypes.data
