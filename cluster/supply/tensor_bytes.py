"""View tensors as bytes, which every reader on a node maps in place."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

# Once for the process: catch_warnings around each call is not safe in threads, and costs more than a small tensor.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

_ALIGNMENT = 64


@dataclass(frozen=True)
class ByteViews:
    """Holds named tensors as uint8 arrays. Ray copies torch tensors on write and read, these on write only."""

    chunks: list[numpy.ndarray]
    """Chunks of tensors adjacent in memory. Ray copies few large ones almost twice as fast."""
    entries: dict[str, tuple[str, tuple[int, ...], int, int]]
    """Layout of each tensor by name: dtype, shape, index of its chunk, byte offset in the chunk."""


def view_bytes(tensors: Mapping[str, Tensor]) -> ByteViews:
    """View `tensors` as uint8 arrays in their own memory; only those not contiguous, or not on the CPU, are copied."""
    chunks: list[Tensor] = []
    entries = {}
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        first = 0
        if part.numel():
            chunk = chunks[-1] if chunks else part
            first = part.storage_offset() - chunk.storage_offset()
            same = part.untyped_storage().data_ptr() == chunk.untyped_storage().data_ptr()
            if chunks and same and first % _ALIGNMENT == 0 and 0 <= first - chunk.numel() < _ALIGNMENT:  # padding
                chunks[-1] = chunk.as_strided((first + part.numel(),), (1,), chunk.storage_offset())
            else:
                chunks.append(part)
                first = 0
        entries[name] = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), max(len(chunks) - 1, 0), first)
    return ByteViews([chunk.numpy() for chunk in chunks], entries)


def view_tensors(views: ByteViews) -> dict[str, Tensor]:
    """View `views` as tensors in the same memory."""
    chunks = [torch.from_numpy(chunk) for chunk in views.chunks]
    tensors = {}
    for name, (dtype_name, shape, chunk, first) in views.entries.items():
        dtype = getattr(torch, dtype_name)
        size = math.prod(shape) * dtype.itemsize
        if size:
            tensors[name] = chunks[chunk][first : first + size].view(dtype).view(shape)
        else:
            tensors[name] = torch.empty(shape, dtype=dtype)
    return tensors
