"""Weights between processes: bytes that every actor of a node reads in place."""

import warnings
from dataclasses import dataclass

import numpy
import torch

from models.rollout import Weights


@dataclass(frozen=True)
class PackedWeights:
    """A version as uint8 arrays. Ray copies torch tensors on the way in and out, numpy arrays on the way in only."""

    version: int
    arrays: dict[str, tuple[str, tuple[int, ...], numpy.ndarray]]
    """By name: (dtype, shape, bytes)."""


def pack(weights: Weights) -> PackedWeights:
    """The same bytes, viewed as uint8; any dtype."""
    return PackedWeights(
        weights.version,
        {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), _bytes(tensor))
            for name, tensor in weights.tensors.items()
        },
    )


def unpack(packed: PackedWeights) -> Weights:
    """Tensors that share the packed bytes: read them, do not write to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Weights(
            packed.version,
            {
                name: torch.from_numpy(array).view(getattr(torch, dtype)).reshape(shape)
                for name, (dtype, shape, array) in packed.arrays.items()
            },
        )


def _bytes(tensor: torch.Tensor) -> numpy.ndarray:
    return tensor.contiguous().flatten().view(torch.uint8).numpy()
