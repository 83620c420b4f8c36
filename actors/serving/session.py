"""Follow one viewer's video: what the viewer wants, what was made, and why it ended."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Condition
from typing import NamedTuple

import numpy
from torch import Tensor

from actors.serving.live_video import LiveVideo

MOST_UNTAKEN = 2
"""Blocks that may lie ready for a viewer who does not fetch them."""


class State(StrEnum):
    """Names the stations of a session."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class LiveBlock(NamedTuple):
    """Holds the frames of a block, and where they belong."""

    first: int
    """Place of its first frame in the video."""
    frames: numpy.ndarray
    """[T H W 3] uint8."""
    prompt: str
    makes_s: float
    """Seconds that its making took."""
    changed: bool
    """Whether it is the first under its prompt."""


class PromptChange(NamedTuple):
    """Holds a prompt that the next block follows."""

    prompt: str
    text: Tensor
    """[1 S text_dim]."""
    recache: bool


@dataclass(eq=False)
class Session:
    """Holds one viewer's video. Viewers' threads call its methods, one thread of blocks reads what they set.

    Make them by `BlockLoop.join`.
    """

    prompt: str
    text: Tensor
    """[1 S text_dim]."""
    seed: int
    start: Tensor | None
    """Frames that the video begins with, [1 T 3 H W] in [0, 1]."""
    changed: Condition
    """Lock of all sessions of a loop, and its bell."""
    notify: Callable[[], None]
    """Called, under the lock, when a block is ready or the state has changed."""
    clock: Callable[[], float] = time.monotonic
    state: State = State.WAITING
    reason: str = ""
    """Reason for its end: left, idle, longest, memory or closing."""
    paused: bool = False
    wanted: float = 0.0
    """Frames of the video that the viewer wants made, in all."""
    made: int = 0
    """Frames made."""
    blocks: deque[LiveBlock] = field(default_factory=deque)
    """Blocks that the viewer has not taken."""
    change: PromptChange | None = None
    video: LiveVideo | None = None
    """Cache and noise; None while it waits, and once it has ended."""
    began_s: float = 0.0
    seen_s: float = 0.0
    """Time of the viewer's last message."""

    @property
    def ready(self) -> bool:
        """Return whether a block may be made now: what nobody wants is not made."""
        wanted = self.state == State.RUNNING and not self.paused and self.made < self.wanted
        return wanted and len(self.blocks) < MOST_UNTAKEN

    def want(self, frames: float) -> None:
        """Ask for the first `frames` of the video, in all: a repeated or late request does no harm."""
        self._set(wanted=max(self.wanted, frames))

    def pause(self, paused: bool) -> None:
        """Stop making blocks behind the open one, or continue."""
        self._set(paused=paused)

    def change_prompt(self, change: PromptChange) -> None:
        """Let the next block follow another prompt; of several changes before it the last one counts."""
        self._set(change=change)

    def _set(self, **values: object) -> None:
        with self.changed:
            self.seen_s = self.clock()
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def take(self) -> LiveBlock | None:
        """Take the oldest block that lies ready; None for none."""
        with self.changed:
            if not self.blocks:
                return None
            self.changed.notify_all()
            return self.blocks.popleft()

    def end(self, reason: str) -> None:
        """End the video, and free its memory. Blocks that lie ready can still be taken; the first reason stays."""
        with self.changed:
            if self.state != State.ENDED:
                self.state, self.reason, self.video, self.start = State.ENDED, reason, None, None
                self.changed.notify_all()
                self.notify()
