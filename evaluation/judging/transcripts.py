"""Transcripts of the judge: a JSON line for every request, the only place that scores are read from."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import ConfigError
from models.json_lines import append_line, complete_lines, end_last_line

_KEY = "judge.transcripts"
_NEEDED = {
    "key": str, "tries": int, "dollars": float | int | None,
    "raw": str | None, "value": int | str | None, "missing": str | None,
}  # fmt: skip
"""Fields of a line that are read again, with their types."""


class Transcripts:
    """Holds a file of transcripts open, alone: two writers would pay twice and cut each other's lines."""

    def __init__(self, path: Path):
        """Read the file's lines; cut off one that a killed process left unfinished.

        Raises ConfigError where the file is in use, has another content, or cannot be read or written.
        """
        self.calls, self.dollars = 0, 0.0
        """Requests, tries included, and their cost, of all runs that wrote to the file."""
        self._answered: dict[str, Mapping[str, Any]] = {}
        self._failed: dict[str, Mapping[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            problem = f"it cannot be opened ({error.strerror})"
            raise ConfigError(_KEY, path, problem, "name another file") from error
        try:
            self._load(path)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Transcripts":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)  # and with it the lock

    def answered(self, key: str) -> Mapping[str, Any] | None:
        """Return the line of a request that brought an answer, readable or not; None where none did."""
        return self._answered.get(key)

    def failed(self, key: str) -> Mapping[str, Any] | None:
        """Return the newest line of a request that brought no answer."""
        return self._failed.get(key)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line, on the disk on return; only then its score exists. Raises OSError."""
        append_line(self._file, line)
        self._remember(line)

    def _load(self, path: Path) -> None:
        """Lock the file, then read it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lines = complete_lines(path)
        except BlockingIOError as error:
            raise ConfigError(_KEY, path, "another command writes to it", "wait for it, or name another") from error
        except OSError as error:
            problem = f"it cannot be used ({error.strerror})"
            raise ConfigError(_KEY, path, problem, "name another file") from error
        for number, content in enumerate(lines, start=1):
            try:
                line = json.loads(content)
                complete = isinstance(line, dict) and all(
                    isinstance(line[name], kind) for name, kind in _NEEDED.items()
                )
            except (ValueError, KeyError, RecursionError):
                complete = False
            # Either a value, with the answer that it was read from, or a reason.
            if (
                not complete
                or (line["value"] is None) == (line["missing"] is None)
                or (line["value"] is not None and line["raw"] is None)
            ):
                raise ConfigError(_KEY, path, f"line {number} is no transcript", "name another file")
            self._remember(line)
        end_last_line(path)

    def _remember(self, line: Mapping[str, Any]) -> None:
        self.calls += line["tries"]
        self.dollars += line.get("dollars") or 0.0
        lines = self._failed if line["raw"] is None else self._answered
        lines[line["key"]] = line
