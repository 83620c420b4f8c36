"""Describe the learner's progress for the terminal, also while nothing comes from it."""

import time
from collections.abc import Callable

from cluster.runs.display import Display

Shown = tuple[str, int, int, str]
"""Stage, updates done, updates in all, and a line of metrics."""
SILENCE_S = 10.0
"""Seconds without progress after which a line shows the state of learner and pool, and again after as many."""
PREPARING = "encoding prompts and reading weights"


class LearnerProgress:
    """Keeps the learner's last progress and its present work, in the coordinator."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.shown: Shown | None = None
        self.phase, self.since = "starting", clock()

    def note(self, phase: str, shown: Shown | None = None) -> None:
        """Keep the work that begins now, and the progress if there is any."""
        self.shown = shown or self.shown
        if phase != self.phase:
            self.phase, self.since = phase, self.clock()

    def state(self) -> str:
        """Describe the learner's work, and for how long it has lasted."""
        return f"the learner is {self.phase} ({self.clock() - self.since:.0f} s)"


class StatusLines:
    """Shows a run's progress, and the state of learner and pool where none comes for some seconds."""

    def __init__(self, display: Display, last_stage: str, clock: Callable[[], float] = time.monotonic):
        """Call the time behind `last_stage`, and no other, the end of the run."""
        self.display, self.last_stage, self.clock = display, last_stage, clock
        self.before: Shown | None = None
        self.started = self.progressed = self.printed = clock()
        display("starting learner", 0, 1, "")

    def observe(self, shown: Shown | None, state: str | None) -> None:
        """Show progress that is new; else, after SILENCE_S, a line that ends with `state`, unless that is None."""
        now = self.clock()
        if shown is not None and shown != self.before:
            if self.before is None:
                self.display("starting learner", 1, 1, f"{now - self.started:.0f} s")
            self.display(*shown)
            self.before, self.progressed, self.printed = shown, now, now
        if state is None or now - self.printed <= SILENCE_S:
            return
        self.printed, cause = now, "no update yet, after"
        if self.before is not None:
            stage, step, steps, _ = self.before
            ended = "finishing, for" if stage == self.last_stage else f"stage {stage} has ended,"
            cause = ended if step == steps else "no update for"
        self.display.say(f"{cause} {now - self.progressed:.0f} s: {state}")
