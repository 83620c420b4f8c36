"""What the person at the terminal sees: a bar per stage with the time left; plain lines where there is no terminal."""

import sys
import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 15.0


class Display:
    """Shows (stage, step, steps, line). Use as a context."""

    def __init__(self) -> None:
        self.bars: Progress | None = None
        self.tasks: dict[str, int] = {}
        self.shown: tuple[str, int] | None = None
        self.printed_s = 0.0
        self.started: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> "Display":
        if sys.stdout.isatty():
            self.bars = Progress(
                TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[line]}", markup=False),
            )  # fmt: skip
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, stage: str, step: int, steps: int, line: str) -> None:
        """Show that `step` of `steps` of `stage` is done."""
        if self.shown == (stage, step):
            return
        self.shown = (stage, step)
        if self.bars is None:
            self._print(stage, step, steps, line)
            return
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=steps, line="")
        self.bars.update(self.tasks[stage], completed=step, total=steps, line=line)

    def say(self, line: str) -> None:
        """A line of its own, above the bars."""
        if self.bars is not None:
            self.bars.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def _print(self, stage: str, step: int, steps: int, line: str) -> None:
        now = time.monotonic()
        new = stage not in self.started
        first_step, first_s = self.started.setdefault(stage, (step, now))
        if not new and step < steps and now - self.printed_s < _LINE_EVERY_S:
            return
        self.printed_s = now
        rate = (now - first_s) / (step - first_step) if step > first_step else None
        left = "" if rate is None or step == steps else f", {rate * (steps - step):.0f} s left"
        print(f"{stage}: {step}/{steps}{left}  {line}", flush=True)
