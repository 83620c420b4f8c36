"""Compute fingerprints of tensors, bit-equal ones alone share theirs at the cost of one reading, and of files."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_ROW_WORDS = 64
_WORD_BYTES = 8
_CHUNK_BYTES = 1 << 24
"""Bytes per read: each chunk takes the interpreter's lock once, and a busy training loop starves small reads."""


class WeightsDiffer(ValueError):
    """Reports that an actor's network differs from the published weights."""


def fingerprint(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> int:
    """Hash names, dtypes, shapes and raw bytes of `tensors` to 64 bits, for any order, device and strides.

    Reads the bytes once, as fast as memory gives them, and waits for a GPU once; holds none of the pairs that an
    iterator makes. Any change of a single word is noticed, as are exchanged tensors and exchanged rows of 512 bytes;
    an exchange inside such a row is not.
    """
    sums, described, row_bytes = [], [], _ROW_WORDS * _WORD_BYTES
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        # The sum of the rows' sums, each times an odd number of its own, modulo 2^64.
        flat = tensor.detach().contiguous().flatten().view(torch.uint8)
        aligned = flat.numel() // row_bytes * row_bytes
        rows = flat[:aligned]
        if rows.storage_offset() % _WORD_BYTES:
            rows = rows.clone()  # words must be aligned
        parts = rows.view(torch.int64).view(-1, _ROW_WORDS).sum(1), flat[aligned:].to(torch.int64)
        first, rest = ((part * torch.arange(1, 2 * len(part) + 1, 2, device=part.device)).sum() for part in parts)
        sums.append(first + rest)
        described.append((name, str(tensor.dtype), tuple(tensor.shape)))
    values = torch.stack([value.to(sums[0].device) for value in sums]).tolist() if sums else []
    text = repr(sorted((*whose, value) for whose, value in zip(described, values, strict=True)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_WORD_BYTES).digest())


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in memory that does not grow with it. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
