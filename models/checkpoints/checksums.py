"""Seal safetensors files with a checksum in their header, and verify it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoints.safetensors_files import open_safetensors
from models.errors import ConfigError

CHECKSUM = "longtake.sha256"
"""Field of the header that holds the checksum."""
UNSEALED = {CHECKSUM: "0" * 64}
"""Metadata that keeps the place of a checksum, for `seal_file`."""


def weights_checksum(header: Mapping[str, str], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash the header and each tensor in order, with its name (SHA-256): not the layout of a file."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def seal_file(path: Path, key: str) -> None:
    """Put the checksum of a written file in its place, which the metadata `UNSEALED` keeps.

    The file is read once more: the header precedes tensors that are written one at a time, and the checksum takes
    them by name. Raises ConfigError, naming `key`, and OSError.
    """
    checksum, _ = _computed(path, key)
    place = json.dumps(UNSEALED)[1:-1].encode()
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(8 + file.read(length).index(place))
        file.write(json.dumps({CHECKSUM: checksum})[1:-1].encode())


def verify_file(path: Path, key: str) -> bool:
    """Check the checksum of a safetensors file; returns False where it carries none, as foreign ones.

    Raises ConfigError, naming `key`, where the content does not match.
    """
    if CHECKSUM not in open_safetensors(path, key).metadata:
        return False
    computed, recorded = _computed(path, key)
    if computed != recorded:
        problem = f"{path} is damaged (its checksum does not match)"
        raise ConfigError(key, None, problem, "copy it again, or remove it")
    return True


def _computed(path: Path, key: str) -> tuple[str, str]:
    """Return the checksum of a file as computed, and as its header records it."""
    file = open_safetensors(path, key)
    header = dict(file.metadata)
    recorded = header.pop(CHECKSUM)
    return weights_checksum(header, file.tensors(sorted(file.stored))), recorded
