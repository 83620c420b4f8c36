"""Split items into plain fields and tensors for transport, rebuild them, and compute digests."""

import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from models.records import Group, MadeBlock, Progress, Trajectory, Window

Item = Window | Group | Trajectory | MadeBlock | Progress
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape by tensor."""

KINDS = {kind.__name__: kind for kind in (Window, Group, Trajectory, MadeBlock, Progress)}
_CLEAN = {"Window": ("context", "latents"), "Group": ("context",), "MadeBlock": ("x0",)}
"""Tensors that hold clean frames of a video: they are digested frame by frame."""


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
