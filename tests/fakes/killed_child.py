"""A forked child that is killed at an operation on files, or at a moment; it acknowledges what is on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir"}


def run_killed(work: Callable[[Callable[[int], None]], None], kill_at: int, delay_s: float | None) -> tuple[bool, int]:
    """Fork a child for `work(acknowledge)`; return whether it was killed, and the last number that it acknowledged.

    It is killed at its `kill_at`-th operation on files, or `delay_s` after its first acknowledgement.
    """
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(ours)
        _kill_at_operation(kill_at)
        work(lambda number: os.write(theirs, f"{number} ".encode()))
        os._exit(0)
    os.close(theirs)
    acknowledged = b""
    if delay_s is not None:
        acknowledged = os.read(ours, 1)
        time.sleep(delay_s)
        os.kill(process, signal.SIGKILL)
    while part := os.read(ours, 65536):
        acknowledged += part
    os.close(ours)
    _, status = os.waitpid(process, 0)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    return status != 0, int(acknowledged.split()[-1]) if acknowledged.split() else 0


def _kill_at_operation(number: int) -> None:
    left = number

    def count(event, arguments):
        nonlocal left
        if event in _FILE_EVENTS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def count_kills(script: str, folder: Path, timeout_s: float) -> dict[str, int]:
    """Run a script in a process of its own that kills children in `folder` and prints its kills as JSON."""
    shown = subprocess.run(
        [sys.executable, "-c", script, folder], cwd=_ROOT, capture_output=True, text=True, timeout=timeout_s
    )
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)
