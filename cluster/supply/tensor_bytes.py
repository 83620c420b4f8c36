"""Split items into plain fields and tensors, view tensors as bytes that readers map in place, and digest them."""

import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy
import torch
from torch import Tensor

from models.records import Group, MadeBlock, Progress, Trajectory, Window

# Once for the process: catch_warnings around each call is not safe in threads, and costs more than a small tensor.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

Item = Window | Group | Trajectory | MadeBlock | Progress
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape by tensor."""

KINDS = {kind.__name__: kind for kind in (Window, Group, Trajectory, MadeBlock, Progress)}
_CLEAN = {"Window": ("context", "latents"), "Group": ("context",), "MadeBlock": ("x0",)}
"""Tensors that hold clean frames of a video: they are digested frame by frame."""

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


def take_apart(item: Item) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split an item into plain fields, with its kind under "kind", and tensors by field; a mapping's by "field/key"."""
    plain: dict[str, Any] = {"kind": type(item).__name__}
    tensors: dict[str, Tensor] = {}
    for own in fields(item):
        value = getattr(item, own.name)
        if isinstance(value, Tensor):
            tensors[own.name] = value
        elif isinstance(value, dict) and all(isinstance(entry, Tensor) for entry in value.values()):
            tensors |= {f"{own.name}/{key}": tensor for key, tensor in value.items()}
        else:
            plain[own.name] = value
    return plain, tensors


def put_together(plain: dict[str, Any], tensors: dict[str, Tensor]) -> Item:
    """Rebuild an item from the result of `take_apart`."""
    kind = KINDS[plain["kind"]]
    values = {name: value for name, value in plain.items() if name != "kind"}
    for path, tensor in tensors.items():
        name, _, key = path.partition("/")
        if key:
            values.setdefault(name, {})[int(key)] = tensor
        else:
            values[name] = tensor
    if kind is MadeBlock:
        values.setdefault("inputs", {})
    if kind is Group:
        values.setdefault("scores", {})
    for name in ("versions", "transitions"):  # lists after msgpack
        if name in values:
            values[name] = tuple(values[name])
    return kind(**values)


def digests_of(kind: str, tensors: Mapping[str, Tensor]) -> tuple[Layout, tuple[tuple[int, ...], ...], int]:
    """Return layout, CRC-32 of each clean frame by video, and CRC-32 of all other tensors. Reads each byte once."""
    layout = {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()}
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    clean = [arrays.pop(name) for name in _CLEAN.get(kind, ())]
    videos = [[video] for video in clean[0]] if kind == "MadeBlock" else [clean] if clean else []
    frames = tuple(
        tuple(zlib.crc32(frame) for part in video for frame in part.flatten(1).view(torch.uint8).numpy())
        for video in videos
    )
    checksum = zlib.crc32(repr(layout).encode())
    for array in arrays.values():
        checksum = zlib.crc32(array.flatten().view(torch.uint8).numpy(), checksum)
    return layout, frames, checksum
