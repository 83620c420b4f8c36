"""Write files that are complete or absent, even if process or machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, completely or not at all."""
    with atomic_file(path) as partial:
        partial.write_bytes(content)


@contextmanager
def atomic_file(path: Path, writer: str = "") -> Iterator[Path]:
    """Yield a partial file beside `path`, flushed and renamed at the end of the block; removed where it fails.

    A kill or a power cut leaves the old file or the new one, never half. `writer` distinguishes processes that write
    the same file at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path, writer)
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


def partial_of(path: Path, writer: str = "") -> Path:
    """Return the file that `beside` writes to."""
    return path.with_name(f".{path.name}{writer}.partial")


def flush(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: Path) -> None:
    """Check by a temporary file that `folder` is writable: to root, every folder looks so.

    Raises OSError where it is not.
    """
    with TemporaryFile(dir=folder):
        pass
