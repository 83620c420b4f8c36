"""Make the blocks of many sessions in turn, in one thread: continuous batching at the boundaries of blocks."""

import time
from collections.abc import Callable
from threading import Condition

import torch
from torch import Tensor

from actors.generation.job import Job
from actors.serving.live_video import LiveVideo
from actors.serving.serve_config import ServeKeys
from actors.serving.session import LiveBlock, Session, State
from models.wan.network import Wan

_LONGEST_SLEEP_S = 0.5
"""Longest wait without an event: limits of time are looked at so often."""


class ServerFull(RuntimeError):
    """Refuses a session: the queue is full, or the server closes."""


class BlockLoop:
    """Runs one model for up to `limits.sessions` videos; others wait in a bounded queue.

    Sessions join and leave between two blocks. They take turns, a block each, so that the longest wait of one is a
    block of every other. `clock` is for tests.
    """

    def __init__(self, job: Job, student: Wan, limits: ServeKeys, clock: Callable[[], float] = time.monotonic):
        self.job, self.student, self.limits, self.clock = job, student, limits, clock
        self.changed = Condition()
        self.running: list[Session] = []
        """Sessions with a cache, the one whose turn is next first."""
        self.waiting: list[Session] = []
        self.closing = False
        self.stopped = False
        """Whether the thread has left `run`."""
        self.blocks = self.frames = 0
        """Made so far, for all sessions."""
        self.busy_s = 0.0
        """Seconds spent making them."""

    def join(
        self, prompt: str, text: Tensor, seed: int, notify: Callable[[], None], start: Tensor | None = None
    ) -> Session:
        """Add a session at the end of the queue. Raises ServerFull."""
        with self.changed:
            self._tidy()
            if self.closing or len(self.waiting) >= self.limits.queue + max(
                0, self.limits.sessions - len(self.running)
            ):
                raise ServerFull("the server closes" if self.closing else f"{len(self.waiting)} wait already")
            session = Session(prompt, text, seed, start, self.changed, notify, self.clock, seen_s=self.clock())
            self.waiting.append(session)
            self._tidy()
            self.changed.notify_all()
            return session

    def place(self, session: Session) -> tuple[int, float]:
        """Return a waiting session's place from 1 on, and the longest time until it runs, in seconds.

        (0, 0.0) for one that does not wait. The time follows from the limit on running ones: most leave earlier.
        """
        with self.changed:
            if session not in self.waiting:
                return 0, 0.0
            rounds, number = divmod(self.waiting.index(session), self.limits.sessions)
            now, longest_s = self.clock(), self.limits.longest_s
            left_s = sorted(max(0.0, one.began_s + longest_s - now) for one in self.running)
            return self.waiting.index(session) + 1, (left_s[number] if number < len(left_s) else 0) + rounds * longest_s

    def _tidy(self) -> None:
        """Let go of ended sessions, end those over a limit, and admit waiting ones. Called under the lock."""
        now = self.clock()
        for session in [*self.running, *self.waiting]:
            if now - session.seen_s > self.limits.idle_s:
                session.end("idle")
            elif session.state == State.RUNNING and now - session.began_s > self.limits.longest_s:
                session.end("longest")
        self.running = [one for one in self.running if one.state == State.RUNNING]
        self.waiting = [one for one in self.waiting if one.state == State.WAITING]
        while self.waiting and len(self.running) < self.limits.sessions:
            session = self.waiting.pop(0)
            session.state, session.began_s = State.RUNNING, now
            self.running.append(session)
            for one in [session, *self.waiting]:
                one.notify()

    def step(self) -> bool:
        """Make one block, of the next session that wants one; returns whether there was such a session."""
        with self.changed:
            self._tidy()
            session = next((one for one in self.running if one.ready), None)
            if session is None:
                return False
            self.running.remove(session)
            self.running.append(session)
            change, session.change = session.change, None
        began_s = self.clock()
        try:
            video = session.video or LiveVideo(self.job, self.student, session.text, session.seed, session.start)
            if change is not None:
                video.change_text(change.text, change.recache)
            frames = video.next_frames()
        except torch.OutOfMemoryError:
            session.end("memory")
            return True
        with self.changed:
            makes_s = self.clock() - began_s
            self.blocks, self.frames, self.busy_s = self.blocks + 1, self.frames + len(frames), self.busy_s + makes_s
            if session.state == State.RUNNING:  # its viewer may have left meanwhile
                session.prompt = session.prompt if change is None else change.prompt
                is_first = change is not None or not session.made
                session.video, session.start = video, None
                session.blocks.append(LiveBlock(session.made, frames, session.prompt, makes_s, is_first))
                session.made += len(frames)
                session.notify()
        return True

    def run(self) -> None:
        """Make blocks until `close`; sleep while nobody wants one."""
        try:
            while not self.closing:
                if not self.step():
                    with self.changed:
                        if not self.closing and not any(one.ready for one in self.running):
                            self.changed.wait(_LONGEST_SLEEP_S)
        finally:
            with self.changed:
                self.closing = self.stopped = True
                for session in [*self.running, *self.waiting]:
                    session.end("closing")

    def close(self) -> None:
        """Take no more sessions, and end those there are, behind the block in the making."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
