"""Files of JSON lines that a killed process leaves readable: complete lines, and at most one unfinished at the end."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def complete_lines(path: Path) -> list[bytes]:
    """Read the lines of a file but an unfinished last one, none where there is no file; changes nothing."""
    *lines, last = _lines(path)
    return [*lines, *([] if not last or _is_cut(last) else [last])]


def end_last_line(path: Path) -> None:
    """Cut off the unfinished last line of a file to append to. First check all lines: the file may be another's."""
    last = _lines(path)[-1]
    if last and _is_cut(last):
        os.truncate(path, path.stat().st_size - len(last))
    elif last:
        with path.open("ab") as file:
            file.write(b"\n")


def _lines(path: Path) -> list[bytes]:
    return (path.read_bytes() if path.is_file() else b"").split(b"\n")


def _is_cut(line: bytes) -> bool:
    """Return whether a line is the beginning of an object, and no more."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.startswith(b"{")
    return False


def append_line(descriptor: int, record: Mapping[str, Any]) -> None:
    """Append `record` as one line, on the disk on return; `descriptor` was opened with O_APPEND.

    One write per line: a kill leaves all of it or a part without the final newline, which `end_last_line` cuts off.
    Raises OSError.
    """
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    while line:
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)
