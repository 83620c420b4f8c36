"""Tensors between processes: bytes that every reader of a node sees in place, and a checksum over them."""

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

# Once for the process: catch_warnings around each call is not safe in threads, and costs more than a small item.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

Arrays = dict[str, tuple[str, tuple[int, ...], numpy.ndarray]]
"""By name: (dtype, shape, bytes as uint8). Ray copies torch tensors on the way in and out, these on the way in only."""


class ChecksumMismatch(ValueError):
    """Bytes are not those that were packed."""


@dataclass(frozen=True)
class PackedTensors:
    """Named tensors as uint8 arrays."""

    arrays: Arrays
    checksum: int
    """CRC-32 of names, dtypes, shapes and bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(array.nbytes for _, _, array in self.arrays.values())


def pack_tensors(tensors: Mapping[str, Tensor]) -> PackedTensors:
    """The same bytes viewed as uint8, with their checksum; any dtype, on CPU."""
    arrays = view_bytes(tensors)
    return PackedTensors(arrays, _checksum(arrays))


def unpack_tensors(packed: PackedTensors) -> dict[str, Tensor]:
    """Tensors that share the packed bytes: read them, do not write to them."""
    return view_tensors(packed.arrays)


def verify(packed: PackedTensors) -> None:
    """Raise ChecksumMismatch if anything differs from what was packed."""
    found = _checksum(packed.arrays)
    if found != packed.checksum:
        raise ChecksumMismatch(
            f"{', '.join(packed.arrays)}: checksum {found:08x} instead of {packed.checksum:08x}; the bytes are damaged"
        )


def view_bytes(tensors: Mapping[str, Tensor]) -> Arrays:
    """uint8 arrays that share the memory of `tensors`; only what is not contiguous, or not on CPU, is copied."""
    return {
        name: (
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(),
        )
        for name, tensor in tensors.items()
    }


def view_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Tensors that share the memory of `arrays`."""
    return {name: _tensor(*array) for name, array in arrays.items()}


def _tensor(dtype: str, shape: tuple[int, ...], array: numpy.ndarray) -> Tensor:
    if array.size == 0:  # its stride is 0, which torch refuses to view as another dtype
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.from_numpy(array).view(getattr(torch, dtype)).reshape(shape)


def _checksum(arrays: Arrays) -> int:
    checksum = 0
    for name, (dtype, shape, array) in arrays.items():
        checksum = zlib.crc32(repr((name, dtype, shape)).encode(), checksum)
        checksum = zlib.crc32(array, checksum)
    return checksum
