"""Paths as people type them. Imports no torch: help must be quick."""

from pathlib import Path

_PICKLES = (".pt", ".pth", ".bin", ".ckpt")


def user_path(given: str, key: str) -> Path:
    """`given` with ~ as a home folder. Raises ValueError, naming `key`, for an empty one or a home that nobody has."""
    if not given:
        raise ValueError(f"{key}= is empty; give a path, or leave {key} out")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{key}={given} begins with the home folder of nobody here; write the whole path") from error


def is_pickle(path: Path) -> bool:
    """Whether a path names a file of `torch.save`."""
    return path.suffix in _PICKLES and not path.is_dir()
