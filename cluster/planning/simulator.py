"""Simulate stage dmd: the run's own supply of windows between actors and a learner that only take time.

Ratios of rates give the speed of each half alone. Their joint speed also depends on unequal lengths of rollouts, on
the buffer's order and bound, and on waits of one half for the other. So the stage is simulated event by event, with the
same dispatches, windows and admissions as a run with this seed. A window costs about a tenth of a millisecond.
"""

import heapq
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Any

from actors.rollout_config import WindowConfig
from actors.student_actor import blocks_kept
from cluster.config.run_config import Config
from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import stage_spec
from cluster.supply.dispatch import Dispatch
from cluster.supply.supply import Supply
from learner.stage_config import DmdConfig
from models.network_config import StudentConfig
from models.records import CRITIC, STUDENT

_ARRIVAL, _LEARNER, _DONE = range(3)
"""Events, in the order in which they are handled where several happen at once."""


@dataclass(frozen=True)
class Pace:
    """Holds the seconds of each part of the work, without waits."""

    block_s: float
    """An actor makes one block of all its videos."""
    cut_s: float
    """An actor cuts one window from the middle of a video; in Wan's world an image is encoded for it."""
    student_s: float
    """All learner ranks together make the student's part of an update."""
    critic_s: float
    """All learner ranks together make one of the critic's updates."""
    publish_s: float
    """The learner hands new weights over."""

    def update_s(self, critic_updates: int) -> float:
        """Return the seconds between two versions of the student where the learner never waits."""
        return critic_updates * self.critic_s + self.student_s + self.publish_s


@dataclass(frozen=True)
class Simulation:
    """Holds the course of a simulated stage by student update, in lists of equal length."""

    windows_per_update: int
    actors: int
    first_window_s: float
    """Seconds from the first weights to the first window that the learner could have taken."""
    ended_s: list[float]
    """Time at which each update was published; the first weights were at 0."""
    waited_s: list[float]
    """Seconds in which the learner waited for its windows."""
    worked_s: list[float]
    """Seconds in which actors were at work until then, all actors together."""
    ages: list[float]
    """Mean age of its windows, in updates."""

    def settled(self, warm_up: int = 0) -> "Rates":
        """Average over all updates but the first `warm_up`."""
        before_s, worked_before_s = (self.ended_s[warm_up - 1], self.worked_s[warm_up - 1]) if warm_up else (0.0, 0.0)
        elapsed_s, worked_s = self.ended_s[-1] - before_s, self.worked_s[-1] - worked_before_s
        updates_per_s = (len(self.ended_s) - warm_up) / elapsed_s
        return Rates(
            updates_per_s=updates_per_s,
            windows_per_s=updates_per_s * self.windows_per_update,
            learner_idle_share=sum(self.waited_s[warm_up:]) / elapsed_s,
            rollout_idle_share=max(0.0, 1 - worked_s / (self.actors * elapsed_s)),
            mean_age=sum(self.ages[warm_up:]) / len(self.ages[warm_up:]),
        )


@dataclass(frozen=True)
class Rates:
    """Holds the speed of a simulated stage, and the shares of time that its halves wait."""

    updates_per_s: float
    windows_per_s: float
    """Windows of all roles that the learner takes."""
    learner_idle_share: float
    """Share of the learner's time in which it waits for windows."""
    rollout_idle_share: float
    """Share of the actors' time in which they wait for room in the buffer."""
    mean_age: float
    """Student updates between a window's oldest block and its use."""


def simulate(config: Config, pace: Pace, actors: int, updates: int) -> Simulation:
    """Simulate the first `updates` student updates of stage dmd with `actors` actors.

    Every actor is up from the beginning, none is lost, and transport takes no time. Raises TooOld where
    buffer.policy=drop could not be met either.
    """
    supply = make_supply(stage_spec("dmd", config))
    stage = _Stage(supply, config.student, config.window, config.dmd, pace, actors)
    stage.give_work()
    stage.learn()
    while len(stage.ended_s) < updates:
        stage.step()
    return Simulation(
        config.samples_per_update("dmd"),
        actors,
        stage.first_window_s,
        stage.ended_s,
        stage.waited_s,
        stage.worked_s,
        stage.ages,
    )


@dataclass
class _Sample:
    """Holds the fields of a window that the supply reads."""

    rollout: int
    attempt: int
    index: int
    role: str
    start: int
    version: int
    age: int = 0
    weight: float = 1.0


class _Stage:
    def __init__(
        self, supply: Supply, student: StudentConfig, window: WindowConfig, dmd: DmdConfig, pace: Pace, actors: int
    ):
        self.supply, self.student, self.window, self.pace = supply, student, window, pace
        self.batch_size = dmd.batch_size
        self.supply.versions.publish(0, 0)
        self.roles = [CRITIC] * dmd.critic_updates + [STUDENT]
        self.seconds = [pace.critic_s] * dmd.critic_updates + [pace.student_s + pace.publish_s]
        self.now, self.requests, self.first_window_s = 0.0, 0, 0.0
        self.events: list[tuple[float, int, int, Any]] = []
        self.numbers = count()
        self.idle = deque(range(actors))
        self.begun: dict[int, float] = {}
        """Start times of the dispatches in progress, by actor."""
        self.waits_since: float | None = None
        self.published_s = [0.0]
        self.done_s = self.waiting_s = 0.0
        self.ended_s: list[float] = []
        self.waited_s: list[float] = []
        self.worked_s: list[float] = []
        self.ages: list[float] = []

    def step(self) -> None:
        """Advance the clock to the next event, and handle it."""
        assert self.events, "deadlock: no event is pending"
        self.now, what, _, subject = heapq.heappop(self.events)
        if what == _ARRIVAL:
            rollout, plan, oldest_s = subject
            version = bisect_right(self.published_s, oldest_s) - 1
            self.supply.buffer.put(_Sample(rollout.id, rollout.attempt, plan.index, plan.role, plan.start, version))
            self.first_window_s = self.first_window_s or self.now
            if self.waits_since is not None:
                self.learn()
        elif what == _DONE:
            self.done_s += self.now - self.begun.pop(subject)
            self.idle.append(subject)
            self.give_work()
        else:
            if self.requests % len(self.roles) == 0:
                version = len(self.published_s)
                self.published_s.append(self.now)
                self.supply.versions.publish(version, version)
                self.ended_s.append(self.now)
                self.waited_s.append(self.waiting_s)
                self.worked_s.append(self.done_s + sum(self.now - begun for begun in self.begun.values()))
                ages = [window["age"] for window in self.supply.ledger.drain()]
                self.ages.append(sum(ages) / len(ages))
                self.supply.ledger.ages.clear()
                self.waiting_s = 0.0
            self.learn()

    def give_work(self) -> None:
        """Assign dispatches to idle actors while the buffer has room, the longest idle first."""
        while self.idle and (dispatch := self.supply.next()) is not None:
            actor = self.idle.popleft()
            self.begun[actor] = self.now
            self._at(self._schedule(dispatch), _DONE, actor)

    def _schedule(self, dispatch: Dispatch) -> float:
        """Schedule the arrival of a dispatch's windows; return the time at which its actor ends."""
        block, frames = self.student.block_frames, self.window.frames
        kept = blocks_kept(self.student, self.window)
        windows = [(rollout, plan) for rollout in dispatch.rollouts for plan in rollout.windows]
        windows.sort(key=lambda window: window[1].start)
        cuts = [(plan.start + frames) // block for _, plan in windows if plan.start]

        def behind(blocks: int, cut: int) -> float:
            return self.now + blocks * self.pace.block_s + cut * self.pace.cut_s

        cut = 0
        for rollout, plan in windows:
            cut += plan.start > 0
            last = (plan.start + frames) // block
            oldest = max(0, last - kept)
            oldest_s = behind(oldest, bisect_right(cuts, oldest))
            self._at(behind(last, cut), _ARRIVAL, (rollout, plan, oldest_s))
        return behind(last, cut)

    def learn(self) -> None:
        """Let the learner take its next windows and compute, or wait."""
        role, seconds = (part[self.requests % len(self.roles)] for part in (self.roles, self.seconds))
        taken = self.supply.take(self.requests, role, self.batch_size)
        if taken is None:
            self.waits_since = self.now if self.waits_since is None else self.waits_since
        else:
            self.waiting_s += 0.0 if self.waits_since is None else self.now - self.waits_since
            self.waits_since = None
            self.requests += 1
            self._at(self.now + seconds, _LEARNER, None)
        self.give_work()  # windows were taken, or dropped

    def _at(self, when_s: float, what: int, subject: Any) -> None:
        heapq.heappush(self.events, (when_s, what, next(self.numbers), subject))
