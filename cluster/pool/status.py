"""What a run tells its driver: progress, news, spans, and why it stopped."""

import logging
import time
from collections import deque

from cluster.runs.trace import Reading, Span

_log = logging.getLogger(__name__)


class Bulletin:
    """The coordinator's part that people look at. All methods run in its event loop."""

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self.shown: tuple[str, int, int, str] | None = None
        self.news: deque[str] = deque(maxlen=1000)
        self.spans: list[Span | Reading] = []

    def situation(self) -> str:
        """For people, in a line."""
        raise NotImplementedError

    def say(self, line: str) -> None:
        """A line for the log and the driver's terminal."""
        _log.warning(line)
        self.news.append(line)

    async def drain_spans(self) -> list[Span | Reading]:
        """What was done elsewhere since this was last asked."""
        spans, self.spans = self.spans, []
        return spans

    async def keep_spans(self, spans: list[Span]) -> None:
        """What another rank than 0 did."""
        self.spans += spans

    async def clock(self) -> float:
        """This machine's time, which every span is told in."""
        return time.time()

    async def show(self, stage: str, step: int, steps: int, line: str) -> None:
        """The learner's progress, kept for whoever displays it."""
        self.shown = (stage, step, steps, line)

    async def tell(self, line: str) -> None:
        """A line for the driver's terminal."""
        self.news.append(line)

    async def stopped(self, reason: Exception) -> None:
        """Why the learner stopped the run."""
        self.reason = reason

    async def look(self) -> tuple[tuple[str, int, int, str] | None, list[str], str]:
        """For the display: the learner's last progress, news since the last look, and the state in words."""
        news = list(self.news)
        self.news.clear()
        return self.shown, news, self.situation()

    async def stop_reason(self) -> Exception | None:
        """Why the run stopped itself, if it did."""
        return self.reason
