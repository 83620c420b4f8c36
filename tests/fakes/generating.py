"""generate.py as a process, and what it leaves."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy

from settings.compose import ROOT

PROMPT = "a red disc drifts slowly over a cool wall"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "generate.py", "preset=tiny", *arguments]


def heard() -> None:
    """What a test is started by may ignore these signals, and children inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, timeout=300, **options)


def frames_of(path: Path) -> list[numpy.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def wait_for_bytes(process: subprocess.Popen, path: Path, size: int) -> None:
    while not path.exists() or path.stat().st_size < size:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)  # leaves the processor to the process
