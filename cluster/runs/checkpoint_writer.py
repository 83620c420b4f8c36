"""The thread that writes checkpoints while training goes on."""

from collections.abc import Callable
from concurrent import futures
from pathlib import Path

from models.errors import StopsRun

Say = Callable[[str], None]
"""Brings one line to the person at the terminal."""

_LINE_EVERY_S = 30.0


class CheckpointNotWritten(StopsRun):
    """A checkpoint could not be written; those before it are as they were."""


class CheckpointWriter:
    """At most one write at a time. Its failure is said at once and raised by the next `wait`."""

    def __init__(self, say: Say):
        self.say = say
        self.pool = futures.ThreadPoolExecutor(1, "checkpoint")
        """Its thread ends with the interpreter, which waits for it: an exit does not cut a write in two."""
        self.pending: tuple[Path, futures.Future] | None = None

    def start(self, path: Path, write: Callable[[], object]) -> None:
        """Let the thread `write` the checkpoint `path`; the one before must have been waited for."""
        assert self.pending is None, f"{path} would be written before {self.pending} has been waited for"
        self.pending = path, self.pool.submit(self._said, path, write)

    def wait(self) -> None:
        """Until nothing is being written. Raises CheckpointNotWritten if the last write failed, once."""
        if self.pending is None:
            return
        path, written = self.pending
        waited_s = 0.0
        while futures.wait([written], timeout=_LINE_EVERY_S).not_done:
            waited_s += _LINE_EVERY_S
            self.say(f"checkpoint {path} is still being written; training has waited {waited_s:.0f} s for it")
        self.pending = None
        written.result()

    def _said(self, path: Path, write: Callable[[], object]) -> None:
        try:
            write()
        except Exception as error:
            line = f"checkpoint {path} was not written ({error}); mend what is named, and run the same command again"
            self.say(line)
            raise CheckpointNotWritten(line) from error
