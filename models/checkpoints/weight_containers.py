"""Recognise the container of a file of weights by its first bytes; list the names that such files have."""

import re
from os.path import isfile
from pathlib import Path

from models.errors import ConfigError
from models.file_kinds import file_kind

SAFETENSORS, TORCH, INDEX = "safetensors file", "file of torch.save", "index of shards"

READ_ENDINGS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files of weights that are read."""
WEIGHT_ENDINGS = (*READ_ENDINGS, ".gguf")
"""Endings of all files of weights."""
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>.*)")
"""Name of one shard of several."""

_READ = {"safetensors": SAFETENSORS, "zip": TORCH}
"""Containers that are read, by the name of their kind of file; an index is text."""
UNQUANTIZED = "give the bfloat16 or float16 file of the same release"
"""Advice for quantized weights."""
_AGAIN = "copy or download it again"
_CURES = {
    "pickle": (
        "is a pickle, written by torch before 1.6 or by other code, which could run code",
        "load it where you trust it, and save it again with a current torch",
    ),
    "gguf": ("is a GGUF file: quantized weights are not read", UNQUANTIZED),
    "empty": ("is empty, and no safetensors file or .pt", _AGAIN),
    "unknown": ("is neither a safetensors file nor one of torch.save, by its first bytes", _AGAIN),
}
"""Problem and fix of containers that are not read."""


def container_of(path: Path) -> str | None:
    """Name the container of a file; None for one that is not read. Raises OSError."""
    kind = file_kind(path)
    if kind is not None:
        return _READ.get(kind.name)
    with path.open("rb") as file:
        return INDEX if file.read(64).lstrip()[:1] in (b"{", b"[") else None


def require_container(path: Path, key: str) -> str:
    """Name the container of a file of weights.

    Raises ConfigError, naming `key`, for a missing file and for a container that is not read.
    """
    if not isfile(path):  # False too for a name that no file can have
        problem, fix = "does not exist", "give the path of a checkpoint, a file or a folder"
        if path.is_symlink():
            problem, fix = f"is a link to {path.readlink()}, which does not exist", _AGAIN
        raise ConfigError(key, path, problem, fix)
    try:
        container, kind = container_of(path), file_kind(path)
    except OSError as error:
        raise ConfigError(key, path, f"cannot be read ({error.strerror})", f"change {key}") from error
    if container is not None:
        return container
    if kind is not None and kind.name not in _CURES:
        raise ConfigError(key, path, f"is {kind.label}", kind.cure)
    problem, fix = _CURES[kind.name if kind else "unknown" if path.stat().st_size else "empty"]
    raise ConfigError(key, path, problem, fix)


def all_shard_names(name: str) -> list[str]:
    """List the names of all shards of the network that a file of this name belongs to; [] where it is no shard."""
    match = SHARD.fullmatch(name)
    if match is None:
        return []
    return [
        f"{match['stem']}-{number:05d}-of-{match['count']}{match['ending']}"
        for number in range(1, int(match["count"]) + 1)
    ]


def is_torch_file(path: Path) -> bool:
    """Return whether `path` is a file of torch.save; False where nothing lies there."""
    return path.is_file() and container_of(path) == TORCH
