"""A number that two sets of tensors share only if they are bit-equal, cheap enough to compare after every sync."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

_ROW_WORDS = 64
_WORD_BYTES = 8


class WeightsDiffer(ValueError):
    """Report that an actor's network differs from the published weights."""


def fingerprint(tensors: Mapping[str, Tensor]) -> int:
    """Hash names, dtypes, shapes and raw bytes of `tensors` to 64 bits, for any order, device and strides.

    Reads the bytes once, as fast as memory gives them, and waits for a GPU once. Any change of a single word is
    noticed, as are exchanged tensors and exchanged rows of 512 bytes; an exchange inside such a row is not.
    """
    names = sorted(tensors)
    sums = [_weighed_sum(tensors[name].detach()) for name in names]
    values = torch.stack([value.to(sums[0].device) for value in sums]).tolist() if sums else []
    described = repr(
        [(n, str(tensors[n].dtype), tuple(tensors[n].shape), v) for n, v in zip(names, values, strict=True)]
    )
    return int.from_bytes(hashlib.blake2b(described.encode(), digest_size=_WORD_BYTES).digest())


def _weighed_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the rows' sums, each times an odd number of its own, modulo 2^64."""
    flat = tensor.contiguous().flatten().view(torch.uint8)
    row_bytes = _ROW_WORDS * _WORD_BYTES
    whole = flat.numel() // row_bytes * row_bytes
    rows = flat[:whole]
    if rows.storage_offset() % _WORD_BYTES:
        rows = rows.clone()  # words must be aligned
    rest = flat[whole:].to(torch.int64)
    sums = rows.view(torch.int64).view(-1, _ROW_WORDS).sum(1)
    return (sums * _odd(sums)).sum() + (rest * _odd(rest)).sum()


def _odd(like: Tensor) -> Tensor:
    return torch.arange(1, 2 * like.numel() + 1, 2, device=like.device)
