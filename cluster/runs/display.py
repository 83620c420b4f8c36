"""Show progress: a bar per stage with the time left, or plain lines without a terminal."""

import sys
import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

_LINE_EVERY_S = 15.0


class _TimeLeft(TimeRemainingColumn):
    """Counts down to the given end of a stage; without one, rich guesses it from steady steps."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.fields["ends_s"] is None:
            return super().render(task)
        minutes, seconds = divmod(max(0, round(task.fields["ends_s"] - time.monotonic())), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.remaining")


class Display:
    """Shows the progress of stages. Use as a context."""

    def __init__(self) -> None:
        self.bars: Progress | None = None
        self.tasks: dict[str, int] = {}
        self.shown: tuple[str, float] | None = None
        self.printed_s = 0.0
        self.started: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> "Display":
        if sys.stdout.isatty():
            self.bars = Progress(
                TextColumn("{task.description:<12}"), BarColumn(bar_width=20), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn("left"), _TimeLeft(),
                # The line alone gives way where the terminal is narrow.
                TextColumn("{task.fields[line]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
                expand=True,
            )  # fmt: skip
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, stage: str, step: float, steps: int, line: str, left_s: float | None = None) -> None:
        """Show that `step` of `steps` of `stage` is done; `left_s` overrides the time left that the steps suggest.

        A step that is done in part counts as a fraction.
        """
        if self.shown == (stage, step):
            return
        self.shown = (stage, step)
        if self.bars is None:
            now = time.monotonic()
            new = stage not in self.started
            first_step, first_s = self.started.setdefault(stage, (step, now))
            if not new and step < steps and now - self.printed_s < _LINE_EVERY_S:
                return
            self.printed_s = now
            if left_s is None and step > first_step:
                left_s = (now - first_s) / (step - first_step) * (steps - step)
            left = "" if left_s is None or step == steps else f", {left_s:.0f} s left"
            print(f"{stage}: {int(step)}/{steps}{left}  {line}", flush=True)
            return
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=steps, line="", ends_s=None)
        ends_s = None if left_s is None else time.monotonic() + left_s
        self.bars.update(self.tasks[stage], completed=step, total=steps, line=line, ends_s=ends_s)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        if self.bars is not None:
            self.bars.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)
