"""Recognise the container of a file of weights by its first bytes, whatever its name is."""

from pathlib import Path

from models.errors import ConfigError
from models.file_kinds import file_kind

SAFETENSORS, TORCH, INDEX = "safetensors file", "file of torch.save", "index of shards"

_READ = {"safetensors": SAFETENSORS, "zip": TORCH}
"""Containers that are read, by the name of their kind of file; an index is text."""
_AGAIN = "copy or download it again"
_CURES = {
    "pickle": (
        "is a pickle, written by torch before 1.6 or by other code, which could run code",
        "load it where you trust it, and save it again with a current torch",
    ),
    "gguf": ("is a GGUF file: quantized weights are not read", "give the bfloat16 file of the same release"),
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
    if not path.is_file():
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


def is_torch_file(path: Path) -> bool:
    """Return whether `path` is a file of torch.save; False where nothing lies there."""
    return path.is_file() and container_of(path) == TORCH
