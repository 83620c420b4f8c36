"""Write the trace of a run: spans of every process, on one clock, in a file that Perfetto opens."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
    """Time one activity of a process."""

    process: str
    name: str
    started_s: float
    """Seconds since the epoch, on the coordinator's clock."""
    duration_s: float


class Reading(NamedTuple):
    """Holds numbers of one moment, which Perfetto draws as curves."""

    process: str
    name: str
    at_s: float
    """Seconds since the epoch, on the coordinator's clock."""
    values: dict[str, float]


class Tracer:
    """Collects the spans of one process, one after the other, at the cost of two clock readings each."""

    def __init__(self, process: str, offset_s: float = 0.0):
        """Record spans of `process`; `offset_s` plus this machine's clock is the coordinator's."""
        self.process, self.offset_s = process, offset_s
        self.spans: list[Span] = []
        self.ended_s = 0.0
        self.open: tuple[str, bool, float, float] | None = None
        """The span that runs now: its name, whether it is a wait, and its start on both clocks."""
        self.since, self.seconds = time.perf_counter(), Counter[str]()

    @contextmanager
    def waiting(self, cause: str) -> Iterator[None]:
        """Time a block in which this process waits."""
        self.until_next(cause, waits=True)
        try:
            yield
        finally:
            self.settle()

    def until_next(self, name: str, waits: bool = False) -> None:
        """Begin a span that lasts until the next one, or until `settle`."""
        self.settle()
        self.open = (name, waits, time.time(), time.perf_counter())

    def settle(self) -> None:
        """End the running span."""
        if self.open is None:
            return
        name, waits, started_s, first = self.open
        self.open = None
        duration_s = time.perf_counter() - first
        self.add(name, started_s, duration_s)
        if waits:
            self.seconds[name] += duration_s

    def add(self, name: str, started_s: float, duration_s: float) -> None:
        """Record a span; `started_s` is of this machine's clock."""
        started_s = max(started_s + self.offset_s, self.ended_s)  # a clock that is set back must not make spans overlap
        self.ended_s = started_s + duration_s
        self.spans.append(Span(self.process, name, started_s, duration_s))

    def interval(self) -> tuple[float, dict[str, float]]:
        """Measure the seconds since the last call, in all and by cause of waiting.

        The running span is cut in two here, so that no interval counts seconds of another.
        """
        if self.open is not None:
            name, waits, *_ = self.open
            self.until_next(name, waits)
        now = time.perf_counter()
        elapsed, seconds = now - self.since, dict(self.seconds)
        self.since, self.seconds = now, Counter()
        return elapsed, seconds

    def drain(self) -> list[Span]:
        """Return the spans since the last call."""
        spans, self.spans = self.spans, []
        return spans


def clock_offset(ask: Callable[[], float], times: int = 5) -> float:
    """Estimate the offset in seconds to the clock that `ask` reads, from the quickest of `times` answers.

    Wrong by half of that answer's time at most.
    """
    answers = []
    for _ in range(times):
        sent = time.time()
        theirs = ask()
        received = time.time()
        answers.append((received - sent, theirs - (sent + received) / 2))
    return min(answers)[1]


def shares_of(tracer: Tracer) -> dict[str, float]:
    """Compute a learner's waiting seconds since the last call, by cause, and its busy share."""
    elapsed_s, waited_s = tracer.interval()
    causes = {f"waited/{cause.replace(' ', '_')}_s": seconds for cause, seconds in waited_s.items()}
    # The parts may exceed their whole by rounding.
    return {"learner/busy_share": max(0.0, 1 - sum(waited_s.values()) / max(elapsed_s, 1e-9))} | causes


class TraceFile:
    """Appends to `trace.json` in Chrome's format, one event a line, readable after any kill.

    The closing bracket is missing, which the format allows: with it, the file is plain JSON. A resumed run appends to
    the same file; a process of the earlier run keeps its row, a new one gets a number of its own. A last line that a
    kill has cut off is removed.
    """

    def __init__(self, path: Path):
        self.numbers: dict[str, int] = {}
        """Rows by process."""
        path.touch()
        with path.open("r+b") as file:
            complete_bytes = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                complete_bytes += len(line)
                if b'"process_name"' in line:
                    event = json.loads(line[1:])
                    self.numbers[event["args"]["name"]] = event["pid"]
            file.truncate(complete_bytes)
        self.file = path.open("a", buffering=1)
        if not self.numbers:
            self.numbers["command"] = 0
            row = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "command"}}
            self.file.write("[" + json.dumps(row) + "\n")
        event = {"name": "begins", "ph": "i", "s": "g", "pid": 0, "tid": 0, "ts": round(time.time() * 1e6)}
        self.file.write("," + json.dumps(event) + "\n")

    def write(self, spans: Sequence[Span | Reading]) -> None:
        """Append spans and readings; a new process gets a row of its own."""
        for span in spans:
            if span.process not in self.numbers:
                self.numbers[span.process] = number = len(self.numbers)
                row = {"name": "process_name", "ph": "M", "pid": number, "args": {"name": span.process}}
                self.file.write("," + json.dumps(row) + "\n")
            if isinstance(span, Reading):
                phase, rest = "C", {"ts": round(span.at_s * 1e6), "args": span.values}
            else:
                # Both ends are rounded, not the duration: spans that touch must not overlap by a microsecond.
                started, ended = round(span.started_s * 1e6), round((span.started_s + span.duration_s) * 1e6)
                phase, rest = "X", {"ts": started, "dur": ended - started}
            event = {"name": span.name, "ph": phase, "pid": self.numbers[span.process], "tid": 0}
            self.file.write("," + json.dumps(event | rest) + "\n")
