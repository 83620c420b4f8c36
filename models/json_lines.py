"""Files of JSON lines that a killed process leaves readable: complete lines, and at most one unfinished at the end."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def complete_lines(path: Path) -> list[bytes]:
    """Read the lines of a file, none where there is no file; cut off an unfinished last one, on the disk too."""
    content = path.read_bytes() if path.is_file() else b""
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(path, len(complete))
    return complete.split(b"\n")[:-1]


def append_line(descriptor: int, record: Mapping[str, Any]) -> None:
    """Append `record` as one line, on the disk on return; `descriptor` was opened with O_APPEND.

    One write per line: a kill leaves all of it or a part without the final newline, which `complete_lines` cuts off.
    Raises OSError.
    """
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    while line:
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)
