"""Lay copies of tensors side by side in one piece of the CPU's memory."""

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

_ALIGNMENT = 64


def side_by_side(sizes: Mapping[str, int]) -> tuple[dict[str, slice], int]:
    """Place pieces of these many bytes one behind the other, aligned; returns places, and the bytes of all."""
    places, end = {}, 0
    for name, size in sizes.items():
        first = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = first + size
        places[name] = slice(first, end)
    return places, end


class HostMemory:
    """Holds one piece of memory that every copy of a group of tensors reuses, pinned for tensors of a GPU.

    New memory would cost three times the copy itself in page faults, and one large array travels almost twice as fast
    as many small ones (benchmarks/weight_sync.py). It is pinned at its size: torch's own allocator of pinned memory
    rounds each piece up to a power of two. Tensors that outlive this object are pinned no longer.
    """

    def __init__(self) -> None:
        self.memory = torch.zeros(0, dtype=torch.uint8)

    def lay(self, like: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return tensors with the names and shapes of `like`, in `dtype` or their own; earlier ones are overwritten."""
        places, end = side_by_side({name: t.numel() * (dtype or t.dtype).itemsize for name, t in like.items()})
        if len(self.memory) < end:
            self.memory = torch.zeros(end, dtype=torch.uint8)
            if any(tensor.is_cuda for tensor in like.values()):
                _pin(self.memory)
        return {
            name: self.memory[places[name]].view(dtype or tensor.dtype).view(tensor.shape)
            for name, tensor in like.items()
        }


def _pin(memory: Tensor) -> None:
    """Pin `memory` for as long as it lives. Raises RuntimeError."""
    runtime = torch.cuda.cudart()
    error = int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 1))
    if error:
        raise RuntimeError(f"CUDA cannot pin {memory.nbytes} bytes of the CPU's memory (cudaHostRegister: {error})")
    weakref.finalize(memory, runtime.cudaHostUnregister, memory.data_ptr()).atexit = False  # the driver may be closed
