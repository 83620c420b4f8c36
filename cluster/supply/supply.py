"""Supply windows without processes: plans for the actors, headers from them, samples for the learner.

`Coordinator` runs it on Ray and `InlineCluster` in one process, so both make the same windows in the same order.

A dispatch is videos that one actor makes together; a window is dispatched with its video and taken exactly once:

                      next()                    keep(header of a window)          take(number)
    drawn, room? -----------> expected of an ------------------------> waits ------------------> taken
                              attempt   ^                                | too old                 |
                                 |      |                                v (buffer.policy=drop)    | withdraw(number):
                 give_back():    |      +------------ next() ------- refills <----- bad or lost ---+ the learner could
           the actor is lost     |      |                                                            not open it
                                 v      |
                              returned -+   continued from its last blocks, as the same attempt;
                                            afresh, or without a block: made again, as a new attempt

A header that `validate` rejects is counted by `refuse`, and its dispatch is given back afresh.

Example, with windows 0 and 1 of rollout 7 in one dispatch:
    dispatch = supply.next()               both are expected of attempt 0
    supply.keep(dispatch, window_0)        window 0 waits
    supply.give_back(dispatch)             the actor is lost: the next dispatch continues the video for window 1
    supply.take(0, "student", 1)           window 0, request 0
    supply.withdraw(0, {(7, 0, 0): bad})   its bytes are damaged: window 0 is made again, as attempt 1
    supply.take(0, "student", 1)           None, until window 0 of attempt 1 has come
"""

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Protocol

from actors.drift_tracker import DriftTracker
from actors.rollout_config import RolloutConfig, WindowConfig
from actors.student_actor import blocks_kept
from cluster.run_errors import RunFailed
from cluster.supply.buffer import WindowBuffer
from cluster.supply.dispatch import Dispatch
from cluster.supply.ledger import ScoreLedger, VersionHistory, WindowLedger
from cluster.supply.supply_state import SupplyState, rollout_of
from cluster.supply.wire import LOST, BadWindow, Header, validate_block, validate_origin, validate_sample
from models.network_config import StudentConfig
from models.records import Rollout, WindowPlan
from rewards.reward_config import RewardConfig

Attempt = tuple[int, int, int]
"""Rollout id, window index and attempt: the identity of one delivery of a window."""
BAD_AT_LEAST = 5
"""Number of refused windows from which their share is checked."""

_log = logging.getLogger(__name__)


class Dispatcher(Protocol):
    """Draws rollouts."""

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """Draw one dispatch, whose first rollout has the number `first`, after student update `update`."""


class TooManyBad(RunFailed):
    """Stops a run whose share of refused windows exceeds buffer.bad_share."""


class Supply:
    """Plans the rollouts of one stage, orders their windows, and serves them to the learner."""

    def __init__(
        self,
        stage: str,
        dispatcher: Dispatcher,
        buffer: WindowBuffer,
        student: StudentConfig,
        window: WindowConfig,
        rollout: RolloutConfig,
        reward: RewardConfig,
        drift: DriftTracker | None = None,
        state: SupplyState | None = None,
    ):
        """Start empty, or from the `state` of a checkpoint; `drift` is set where `dispatcher` reads it."""
        self.stage, self.dispatcher, self.buffer = stage, dispatcher, buffer
        self.student, self.window, self.rollout, self.reward = student, window, rollout, reward
        self.drift = drift
        self.versions = VersionHistory()
        self.next_rollout = 0
        self.drawn: tuple[int, int, list[Rollout]] | None = None
        """Next dispatch, kept until the buffer has room: first rollout id, update, rollouts."""
        self.open: dict[int, Rollout] = {}
        """Rollouts with windows that are not taken yet, as first dispatched."""
        self.closed: dict[int, tuple[Rollout, int]] = {}
        """Fully taken rollouts of the samples in `plans`, with their last attempts."""
        self.attempts: dict[int, int] = {}
        self.returned: deque[Dispatch] = deque()
        self.plans: dict[int, list[Header]] = {}
        """Samples of the learner's last two requests, by number of the request."""
        self.ledger = WindowLedger()
        self.scores = ScoreLedger(reward)
        self.blocks = 0
        """Number of blocks received since the last call of `metrics`."""
        if state is None:
            return
        plain, waiting = state
        buffer.restore(plain["buffer"], waiting)
        self.versions = VersionHistory((version, update) for version, update in plain["lineage"])
        self.next_rollout = plain["next_rollout"]
        self.attempts = dict(tuple(pair) for pair in plain["attempts"])
        self.ledger = WindowLedger(plain["starts"])
        self.scores = ScoreLedger(reward, plain["scores"])
        if drift is not None:
            drift.by_block = DriftTracker(plain["straying"]).by_block
        self.open = {rollout["id"]: rollout_of(rollout) for rollout in plain["open"]}
        # Windows that were in flight are requested again, as new attempts, before anything new.
        windows = {i: tuple(p for p in r.windows if (i, p.index) in buffer.pending) for i, r in self.open.items()}
        missing = [replace(self.open[i], windows=plans) for i, plans in windows.items() if plans]
        for first in range(0, len(missing), rollout.batch):
            batch = missing[first : first + rollout.batch]
            self.returned.append(Dispatch([self._next_attempt(rollout) for rollout in batch]))

    # -- dispatches for the actors --------------------------------------------------------------------------------

    def next(self) -> Dispatch | None:
        """Return the next dispatch for an idle actor, or None.

        Lost dispatches come first, then windows to be made again, then new ones. None if the buffer has no room, or
        the stage needs no more.
        """
        if self.returned:
            return self.returned.popleft()
        plans: dict[int, list[WindowPlan]] = {}
        while self.buffer.refills:  # with the starts that were drawn for them
            rollout, index = self.buffer.refills[0]
            if rollout not in plans and len(plans) == self.rollout.batch:
                break
            self.buffer.refills.popleft()
            plans.setdefault(rollout, []).extend(p for p in self.open[rollout].windows if p.index == index)
        if plans:
            again = [replace(self.open[i], windows=tuple(missing)) for i, missing in plans.items()]
            return Dispatch([self._next_attempt(rollout) for rollout in again])
        place = (self.next_rollout, self.versions.update)
        if self.drawn is None or self.drawn[:2] != place:
            self.drawn = (*place, self.dispatcher.rollouts(*place))
        rollouts = self.drawn[2]
        if not rollouts or not self.buffer.has_room(rollouts):
            return None
        self.next_rollout += len(rollouts)
        self.buffer.expect(rollouts)
        self.open |= {rollout.id: rollout for rollout in rollouts}
        return Dispatch(rollouts)

    def give_back(self, dispatch: Dispatch, afresh: bool = False) -> None:
        """Request the missing windows of a dispatch again after its actor has ended.

        Another actor continues its videos behind the streamed blocks, as the same attempt; `afresh`, or without any
        block, it makes them again as a new attempt. Delivered windows stay valid either way.
        """
        rows, missing = dispatch.missing(self.buffer)
        if not missing:
            return
        again = None
        if self.rollout.continued and not afresh:
            again = dispatch.continued(rows, missing, self.student.block_frames, self.window.frames)
        again = again or Dispatch([self._next_attempt(rollout) for rollout in missing], lost=dispatch.lost + 1)
        self.returned.append(again)

    def _next_attempt(self, rollout: Rollout) -> Rollout:
        self.attempts[rollout.id] = self.attempts.get(rollout.id, 0) + 1
        again = replace(rollout, attempt=self.attempts[rollout.id])
        self.buffer.expect_again(again)
        return again

    # -- headers from the actors ----------------------------------------------------------------------------------

    def validate(self, dispatch: Dispatch, header: Header) -> None:
        """Raise BadWindow for a header that must not be trained on, scored or continued."""
        if header.kind == "MadeBlock":
            validate_block(header, dispatch.made, len(dispatch.rollouts), self.student, self.versions)
        elif header.kind != "Progress":
            row = self._row(dispatch, header)
            validate_sample(header, dispatch.rollouts[row], self.student, self.window, self.versions)
            if header.kind != "Trajectory":
                validate_origin(header, row, dispatch.made)

    def keep(self, dispatch: Dispatch, header: Header) -> None:
        """Keep a validated header with its payload; groups carry their scores."""
        if header.kind == "Progress":  # it leaves nothing to continue from when its process is lost
            return
        dispatch.lost = 0
        if header.kind != "MadeBlock":
            if header.kind == "Group":
                self.scores.note(header.scores)
            self.buffer.put(header)
            return
        self.blocks += header.shape("x0")[0]
        dispatch.made.append(header)
        first = header.index * self.student.block_frames < self.student.horizon_frames
        if first and (self.stage == "grpo" or self.drift is not None):
            dispatch.first.append(header)
        if self.drift is not None:
            self.drift.note(header.index, header.drift)
        while len(dispatch.made) > blocks_kept(self.student, self.window):
            dispatch.made.popleft()

    def _row(self, dispatch: Dispatch, sample: Header) -> int:
        """Find the row of the sample's video in its dispatch. Raises BadWindow for a sample not expected."""
        for row, rollout in enumerate(dispatch.rollouts):
            if rollout.id == sample.rollout and self.buffer.expects(sample.rollout, sample.index, sample.attempt):
                return row
        raise BadWindow("plan", f"{sample.name} was not requested, or came twice")

    def reference(self, dispatch: Dispatch, group: Header) -> list[Header]:
        """Return the blocks of the first horizon of the group's video, before the group's start."""
        row, block_frames = self._row(dispatch, group), self.student.block_frames
        return [block.select([row]) for block in dispatch.first if block.index * block_frames < group.start]

    def refuse(self, bad: BadWindow) -> None:
        """Count a refused or lost window. Raises TooManyBad above buffer.bad_share."""
        _log.warning("refused: %s", bad)
        counts = self.buffer.counts
        if bad.reason == LOST:
            counts["lost"] += 1
            return
        counts["refused"] += 1
        counts[f"refused_{bad.reason}"] += 1
        share = counts["refused"] / (counts["refused"] + counts["delivered"])
        if counts["refused"] >= BAD_AT_LEAST and share > self.buffer.config.bad_share:
            raise TooManyBad(
                f"{counts['refused']} windows were refused, {share:.0%} of those that came (buffer.bad_share = "
                f"{self.buffer.config.bad_share}); the last one: {bad}"
            )

    # -- samples for the learner ----------------------------------------------------------------------------------

    def take(self, number: int, role: str, n: int) -> list[Header] | None:
        """Return the `n` samples of the learner's `number`-th request, or None while one is unfinished.

        A repeated request, by another rank or after a lost answer, gets the same samples.
        """
        if number not in self.plans:
            assert number > max(self.plans, default=-1), f"request {number} was answered and forgotten"
            taken = self.buffer.take(role, n, self.versions.age)
            if taken is None:
                return None
            # Updates are collective: a rank that requests this plan has all samples of the last but one.
            self.plans = {kept: plan for kept, plan in self.plans.items() if kept >= number - 1} | {number: taken}
            self.ledger.note(role, taken, self.versions.age)
            named = {sample.rollout for plan in self.plans.values() for sample in plan}
            self.closed = {i: closed for i, closed in self.closed.items() if i in named}
            for i in named & self.open.keys():
                if not any(self.buffer.holds(i, plan.index) for plan in self.open[i].windows):
                    self.closed[i] = (self.open.pop(i), self.attempts.pop(i, 0))
        return self.plans[number]

    def withdraw(self, number: int, bad: Mapping[Attempt, BadWindow]) -> int:
        """Withdraw request `number`: its `bad` samples are made again, the others wait in their old places.

        Returns the number of all its samples, 0 where another rank has withdrawn it before. The learner's next `take`
        of this number gives the same windows. Raises TooManyBad.
        """
        plan = self.plans.get(number, [])
        withdrawn = {(sample.rollout, sample.index, sample.attempt) for sample in plan} & bad.keys()
        if not withdrawn:
            return 0
        del self.plans[number]
        for sample in plan:
            if sample.rollout in self.closed:
                self.open[sample.rollout], self.attempts[sample.rollout] = self.closed.pop(sample.rollout)
        self.ledger.withdraw(plan)
        self.buffer.put_back(plan, {(rollout, index) for rollout, index, _ in withdrawn})
        for attempt in sorted(withdrawn):
            self.refuse(bad[attempt])
        return len(plan)

    def metrics(self) -> dict[str, object]:
        """Return depth, windows by outcome, starts and ages, and the blocks received since the last call."""
        values = {} if self.versions.newest is None else {"weights/version": self.versions.newest}
        values |= {"buffer/depth": self.buffer.depth, "buffer/pending": len(self.buffer.pending)}
        values |= {"rollout/blocks": self.blocks} | self.ledger.metrics() | self.scores.metrics()
        self.blocks = 0
        return values | {f"windows/{outcome}": n for outcome, n in sorted(self.buffer.counts.items())}

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state(self) -> SupplyState:
        """Return the plain state for a checkpoint, and the waiting samples."""
        plain = {
            "stage": self.stage,
            "next_rollout": self.next_rollout,
            "lineage": sorted(self.versions.updates.items()),
            "open": [asdict(rollout) for rollout in self.open.values()],
            "attempts": sorted(self.attempts.items()),
            "starts": self.ledger.state(),
            "scores": self.scores.state(),
            "buffer": self.buffer.state(),
        } | ({} if self.drift is None else {"straying": self.drift.state()})
        return plain, list(self.buffer.waiting.values())
