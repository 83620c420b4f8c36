"""What the person at the terminal sees while a video is made; on standard error, which a pipe leaves free."""

import math
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class VideoMeter:
    """Frames done, frames per second, time to the first frame, time left. Use as a context."""

    def __init__(self, frames: float):
        """`frames` are video frames of all videos that are made at the same time; infinite where nobody stops them."""
        self.console = Console(stderr=True)
        self.bar = Progress(
            BarColumn(), TextColumn("{task.fields[line]}", markup=False),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self.total, self.done = frames, 0
        self.started_s = time.monotonic()
        self.latency_s: float | None = None
        self.task = self.bar.add_task("", total=None if math.isinf(frames) else frames, line="")

    def __enter__(self) -> "VideoMeter":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def add(self, frames: int) -> None:
        """Note that `frames` more have been written."""
        self.done += frames
        if self.latency_s is None:
            self.latency_s = time.monotonic() - self.started_s
        self.bar.update(self.task, completed=self.done, line=self.line())

    def line(self) -> str:
        """The numbers, in words."""
        rate = self.done / max(time.monotonic() - self.started_s, 1e-9)
        total = "" if math.isinf(self.total) else f"/{self.total:.0f}"
        first = "" if self.latency_s is None else f", first after {self.latency_s:.2f} s"
        return f"{self.done}{total} frames, {rate:.1f} frames/s{first}"
