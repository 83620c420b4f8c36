"""Files that are whole or absent, whatever stops the process or the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with beside(path) as partial:
        partial.write_bytes(content)


@contextmanager
def beside(path: Path, writer: str = "") -> Iterator[Path]:
    """A file beside `path` to write to, flushed and renamed at the end of the block; gone where the block fails.

    A kill or a power cut leaves the old file or the new one, never half. `writer` tells apart those who may write the
    same file at the same time.
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
    """What `beside` writes to."""
    return path.with_name(f".{path.name}{writer}.partial")


def flush(path: Path) -> None:
    """Return when the disk has what was written to a file, or what was renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: Path) -> None:
    """Make a file in `folder` that has no name and is gone at once: to root, every folder looks writable.

    Raises OSError where that cannot be done.
    """
    with TemporaryFile(dir=folder):
        pass
