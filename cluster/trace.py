"""Who did what when: spans of every process, on one clock, in a file that Perfetto opens."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
    """Something that took time."""

    process: str
    name: str
    started_s: float
    """Seconds since the epoch, on the coordinator's clock."""
    duration_s: float


class Tracer:
    """Collects the spans of one process. Cheap: two clock readings and one append."""

    def __init__(self, process: str, offset_s: float = 0.0):
        """`offset_s` is added to this machine's clock to get the coordinator's."""
        self.process, self.offset_s = process, offset_s
        self.spans: list[Span] = []
        self.since, self.seconds = time.monotonic(), Counter[str]()

    @contextmanager
    def waiting(self, cause: str) -> Iterator[None]:
        """Time a block in which this process only waits."""
        started, first = time.time(), time.perf_counter()
        try:
            yield
        finally:
            self.waited(cause, started, time.perf_counter() - first)

    def waited(self, cause: str, started_s: float, duration_s: float) -> None:
        """Note a wait that was timed otherwise."""
        self.add(cause, started_s, duration_s)
        self.seconds[cause] += duration_s

    def add(self, name: str, started_s: float, duration_s: float) -> None:
        """Note what was timed; `started_s` is of this machine's clock."""
        self.spans.append(Span(self.process, name, started_s + self.offset_s, duration_s))

    def interval(self) -> tuple[float, dict[str, float]]:
        """Seconds since this was last asked, in all and by cause of waiting."""
        now = time.monotonic()
        elapsed, seconds = now - self.since, dict(self.seconds)
        self.since, self.seconds = now, Counter()
        return elapsed, seconds

    def drain(self) -> list[Span]:
        """The spans since this was last asked."""
        spans, self.spans = self.spans, []
        return spans


def clock_offset(ask: Callable[[], float], times: int = 5) -> float:
    """Seconds to add to this clock to get the one that `ask` reads: of the quickest of some answers, its middle."""
    answers = []
    for _ in range(times):
        sent = time.time()
        theirs = ask()
        received = time.time()
        answers.append((received - sent, theirs - (sent + received) / 2))
    return min(answers)[1]


def shares_of(tracer: Tracer) -> dict[str, float]:
    """Where a learner's time went since this was last asked: waiting, by cause in seconds, and the share without."""
    elapsed_s, waited_s = tracer.interval()
    causes = {f"waited/{cause.replace(' ', '_')}_s": seconds for cause, seconds in waited_s.items()}
    return {"learner/busy_share": 1 - sum(waited_s.values()) / max(elapsed_s, 1e-9)} | causes


class TraceFile:
    """`trace.json` in Chrome's format: one event a line, appended while the run goes on, readable after any kill."""

    def __init__(self, path: Path):
        new = not path.exists() or not path.stat().st_size
        self.file = path.open("a", buffering=1)
        self.numbers: dict[str, int] = {}
        if new:
            self.file.write("[\n")  # the closing bracket may be missing in this format

    def write(self, spans: Sequence[Span]) -> None:
        """Append spans; a process that is new gets a row of its own."""
        for span in spans:
            number = self._number(span.process)
            event = {"name": span.name, "ph": "X", "pid": number, "tid": 0}
            event |= {"ts": round(span.started_s * 1e6), "dur": round(span.duration_s * 1e6)}
            self.file.write(json.dumps(event) + ",\n")

    def _number(self, process: str) -> int:
        if process not in self.numbers:
            self.numbers[process] = len(self.numbers) + 1
            event = {"name": "process_name", "ph": "M", "pid": self.numbers[process], "args": {"name": process}}
            self.file.write(json.dumps(event) + ",\n")
        return self.numbers[process]

    def close(self) -> None:
        """Flush."""
        self.file.close()
