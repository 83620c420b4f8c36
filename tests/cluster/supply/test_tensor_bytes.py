"""Viewed tensors are the same bytes."""

import pytest
import torch

from cluster.supply.tensor_bytes import view_bytes, view_tensors
from learner.trained_network import FlatCopy


def tensors(dtype=torch.float32):
    return {
        "a": torch.randn(3, 5).to(dtype),
        "strided": torch.randn(6, 4).to(dtype).t(),
        "scalar": torch.randn(()).to(dtype),
        "empty": torch.empty(0, 2, dtype=dtype),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_seen_as_bytes_and_back_are_bit_equal_and_keep_dtype_and_shape(dtype):
    original = tensors(dtype)
    unpacked = view_tensors(view_bytes(original))
    assert list(unpacked) == list(original)
    for name, tensor in original.items():
        assert unpacked[name].dtype == dtype and torch.equal(unpacked[name], tensor)


def test_views_share_the_memory_of_a_contiguous_tensor():
    original = {"a": torch.zeros(4, requires_grad=True)}
    views = view_bytes(original)
    with torch.no_grad():
        original["a"].fill_(3)
    assert torch.equal(view_tensors(views)["a"], torch.full((4,), 3.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flat_copy_is_rounded_once_travels_as_one_chunk_and_uses_its_memory_again(dtype):
    original = {"a": torch.randn(3, 5), "odd": torch.randn(7), "none": torch.empty(0, 4), "last": torch.randn(2, 2).T}
    flat = FlatCopy(original, dtype)
    for step in range(2):
        changed = {name: tensor + step for name, tensor in original.items()}
        views = view_bytes(flat.of(changed))
        assert len(views.chunks) == 1
        assert views.chunks[0].ctypes.data == flat.tensors["a"].data_ptr()
        for name, tensor in view_tensors(views).items():
            assert tensor.dtype == dtype and torch.equal(tensor, changed[name].to(dtype))


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
