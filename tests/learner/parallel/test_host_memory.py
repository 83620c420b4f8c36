"""Copies of a group of tensors lie side by side in one piece of memory, the same for the next copies."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.parallel.host_memory import HostMemory

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64])


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES, dtypes=st.lists(DTYPES, min_size=6, max_size=6), dtype=st.none() | DTYPES)
def test_tensors_do_not_overlap_and_the_next_ones_lie_where_they_lay(shapes, dtypes, dtype):
    like = {str(i): torch.full(shape, i + 1, dtype=dtypes[i]) for i, shape in enumerate(shapes)}
    memory = HostMemory()
    laid = memory.lay(like, dtype)
    for name, tensor in laid.items():
        tensor.copy_(like[name])
    for name, tensor in laid.items():
        assert tensor.dtype == (dtype or like[name].dtype) and torch.equal(tensor, like[name].to(tensor.dtype))
    again = memory.lay(like, dtype)
    assert all(again[name].data_ptr() == laid[name].data_ptr() for name in like)
