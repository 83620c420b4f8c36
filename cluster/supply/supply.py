"""The supply of windows without any process: what is asked of the actors, what came of it, what the learner gets.

`Coordinator` runs it on Ray and `InlineCluster` in one process, so both make the same windows in the same order.
"""

import logging
from collections import deque
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from actors.drift_tracker import DriftTracker, latent_drift
from actors.rollout_config import RolloutConfig, WindowConfig
from actors.student_actor import blocks_kept
from cluster.errors import RunFailed
from cluster.supply.buffer import WindowBuffer
from cluster.supply.dispatch import Dispatch
from cluster.supply.ledger import ScoreLedger, VersionHistory, WindowLedger
from cluster.supply.validation import BadWindow, inspect, inspect_block, inspect_origin
from cluster.supply.wire import Item, put_together, rollout_of, take_apart
from models.network_config import StudentConfig
from models.records import Group, MadeBlock, Progress, Rollout, Trajectory, Window, WindowPlan, first_frames
from rewards.reward_config import RewardConfig

BAD_AT_LEAST = 5
"""Refused windows before their share is looked at."""

State = tuple[dict[str, Tensor], dict[str, Any]]
"""For a checkpoint: tensors by name, and the plain rest."""

_log = logging.getLogger(__name__)


class Dispatcher(Protocol):
    """Draws rollouts."""

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """One dispatch, whose first rollout has the number `first`, after student update `update`."""


class TooManyBad(RunFailed):
    """More windows were refused than buffer.bad_share allows."""


class Supply:
    """Of one stage."""

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
        state: State | None = None,
    ):
        """`drift` is what `dispatcher` goes by, where it goes by the drift of videos; `state` is a checkpoint's."""
        self.stage, self.dispatcher, self.buffer = stage, dispatcher, buffer
        self.student, self.window, self.rollout, self.reward = student, window, rollout, reward
        self.drift = drift
        self.versions = VersionHistory()
        self.next_rollout = 0
        self.drawn: tuple[int, int, list[Rollout]] | None = None
        """What was drawn last, for which first rollout and after which update: it is asked for until there is room."""
        self.open: dict[int, Rollout] = {}
        """As first dispatched: rollouts of which a window has not been taken yet."""
        self.attempts: dict[int, int] = {}
        self.returned: deque[Dispatch] = deque()
        self.plans: dict[int, list[Any]] = {}
        self.ledger = WindowLedger()
        self.scores = ScoreLedger(reward)
        self.blocks = 0
        """Blocks of video that came since the metrics were last asked for."""
        if state is not None:
            self._restore(*state)

    # -- what is asked of the actors ------------------------------------------------------------------------------

    def next(self) -> Dispatch | None:
        """What an idle actor should make: first what was lost, then what came too old, then new rollouts.

        None if there is no room, or no more to make.
        """
        if self.returned:
            return self.returned.popleft()
        if self.buffer.refills:
            return Dispatch(self._refills())
        rollouts = self._drawn()
        if not rollouts or not self.buffer.has_room(rollouts):
            return None
        self.next_rollout += len(rollouts)
        self.buffer.expect(rollouts)
        self.open |= {rollout.id: rollout for rollout in rollouts}
        return Dispatch(rollouts)

    def _drawn(self) -> list[Rollout]:
        place = (self.next_rollout, self.versions.update)
        if self.drawn is None or self.drawn[:2] != place:
            self.drawn = (*place, self.dispatcher.rollouts(*place))
        return self.drawn[2]

    def give_back(self, dispatch: Dispatch, afresh: bool = False) -> None:
        """An actor is gone or has left: what is missing is asked for again.

        Its videos go on from the blocks that were streamed, as the same attempt; `afresh`, or without any block, they
        are made again as a new attempt. Windows that were delivered stay valid either way.
        """
        rows, missing = dispatch.missing(self.buffer)
        if not missing:
            return
        again = None
        if self.rollout.continued and not afresh:
            again = dispatch.continued(rows, missing, self.student.block_frames, self.window.frames)
        if again is None:
            again = Dispatch([self._next_attempt(rollout) for rollout in missing], lost=dispatch.lost + 1)
        self.returned.append(again)

    def missing(self, dispatch: Dispatch) -> bool:
        """Whether a window of `dispatch` has not come yet."""
        return bool(dispatch.missing(self.buffer)[1])

    def _next_attempt(self, rollout: Rollout) -> Rollout:
        self.attempts[rollout.id] = self.attempts.get(rollout.id, 0) + 1
        again = replace(rollout, attempt=self.attempts[rollout.id])
        self.buffer.expect_again(again)
        return again

    def _refills(self) -> list[Rollout]:
        """The windows that came too old, with the starts that were drawn for them; one dispatch at most."""
        plans: dict[int, list[WindowPlan]] = {}
        while self.buffer.refills:
            rollout, index = self.buffer.refills[0]
            if rollout not in plans and len(plans) == self.rollout.batch:
                break
            self.buffer.refills.popleft()
            plans.setdefault(rollout, []).append(self._plan(rollout, index))
        return [self._next_attempt(replace(self.open[i], windows=tuple(asked))) for i, asked in plans.items()]

    def _plan(self, rollout: int, index: int) -> WindowPlan:
        return next(plan for plan in self.open[rollout].windows if plan.index == index)

    # -- what came of it ------------------------------------------------------------------------------------------

    def inspect(self, dispatch: Dispatch, item: Item) -> None:
        """Raise BadWindow for what must not be trained on, scored, or gone on from; `inspect_values` let it pass."""
        if isinstance(item, MadeBlock):
            inspect_block(item, dispatch.made, len(dispatch.rollouts), self.student, self.versions)
        elif isinstance(item, Window | Group | Trajectory):
            row = self._row(dispatch, item)
            inspect(item, dispatch.rollouts[row], self.student, self.window, self.versions)
            if not isinstance(item, Trajectory):
                inspect_origin(item, row, dispatch.made)

    def keep(self, dispatch: Dispatch, item: Item) -> None:
        """Keep what an actor streamed and `inspect` let pass; groups have their scores by now."""
        if not isinstance(item, Progress):  # of which nothing is left when its process is lost
            dispatch.lost = 0
        if isinstance(item, MadeBlock):
            self._keep_block(dispatch, item)
        elif isinstance(item, Window | Group | Trajectory):
            if isinstance(item, Group):
                self.scores.note(item)
            self.buffer.put(item)

    def _keep_block(self, dispatch: Dispatch, block: MadeBlock) -> None:
        self.blocks += len(block.x0)
        dispatch.made.append(block)
        first = block.index * self.student.block_frames < self.student.horizon_frames
        if first and (self.stage == "grpo" or self.drift is not None):
            dispatch.opening.append(block)
        if self.drift is not None:
            began = torch.cat([entry.x0 for entry in dispatch.opening], dim=1)
            self.drift.note(block.index, latent_drift(began, block.x0))
        while len(dispatch.made) > blocks_kept(self.student, self.window):
            dispatch.made.popleft()

    def _row(self, dispatch: Dispatch, item: Window | Group | Trajectory) -> int:
        """Which of the dispatch's videos `item` is of. Raises BadWindow if nobody waits for it."""
        row = next((i for i, rollout in enumerate(dispatch.rollouts) if rollout.id == item.rollout), None)
        if row is None or not self.buffer.expects(item.rollout, item.index, item.attempt):
            raise BadWindow("plan", f"window {item.index} of rollout {item.rollout} was not asked for, or came twice")
        return row

    def reference(self, dispatch: Dispatch, group: Group) -> Tensor | None:
        """How the group's own video began, [R C H W]; None for a group that begins with it."""
        return first_frames(dispatch.opening, self._row(dispatch, group), group.start, self.student.horizon_frames)

    def refuse(self, bad: BadWindow) -> None:
        """Count a refused window. Raises TooManyBad when they are no accident any more."""
        _log.warning("refused: %s", bad)
        counts = self.buffer.counts
        counts["refused"] += 1
        counts[f"refused_{bad.reason}"] += 1
        share = counts["refused"] / (counts["refused"] + counts["delivered"])
        if counts["refused"] >= BAD_AT_LEAST and share > self.buffer.config.bad_share:
            raise TooManyBad(
                f"{counts['refused']} windows were refused, {share:.0%} of those that came (buffer.bad_share = "
                f"{self.buffer.config.bad_share}); the last one: {bad}"
            )

    # -- what the learner gets ------------------------------------------------------------------------------------

    def take(self, number: int, role: str, n: int) -> list[Any] | None:
        """The plan of the learner's `number`-th request: `n` samples of a role, or None while they are being made.

        Asking again, by another rank or after a lost answer, gives the same samples.
        """
        if number not in self.plans:
            assert number > max(self.plans, default=-1), f"request {number} was answered and forgotten"
            taken = self.buffer.take(role, n, self._age)
            if taken is None:
                return None
            # A rank that asks for this plan has everything of the last but one: its updates are collective.
            self.plans = {kept: plan for kept, plan in self.plans.items() if kept >= number - 1} | {number: taken}
            self.ledger.note(role, taken, self._age)
            self._close({sample.rollout for sample in taken})
        return self.plans[number]

    def _age(self, sample: Window | Group | Trajectory) -> int:
        return 0 if isinstance(sample, Trajectory) else self.versions.age(sample.version)

    def _close(self, rollouts: set[int]) -> None:
        """Forget rollouts of which every window was taken."""
        for rollout in rollouts:
            if not any(self.buffer.holds(rollout, plan.index) for plan in self.open[rollout].windows):
                del self.open[rollout]
                self.attempts.pop(rollout, None)

    def metrics(self) -> dict[str, object]:
        """Depth, windows by outcome, and what was taken; since this was last asked, the blocks that came."""
        found = {} if self.versions.newest is None else {"weights/version": self.versions.newest}
        found |= {"buffer/depth": self.buffer.depth, "buffer/pending": len(self.buffer.pending)}
        found |= {"rollout/blocks": self.blocks} | self.ledger.metrics() | self.scores.metrics()
        self.blocks = 0
        return found | {f"windows/{outcome}": n for outcome, n in sorted(self.buffer.counts.items())}

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Everything that a resumed run needs; latents are small, so what waits is saved whole."""
        tensors, waiting = {}, []
        for i, sample in enumerate(self.buffer.waiting.values()):
            plain, parts = take_apart(sample)
            waiting.append(plain)
            tensors |= {f"{i}/{name}": tensor for name, tensor in parts.items()}
        plain = {
            "stage": self.stage,
            "next_rollout": self.next_rollout,
            "lineage": sorted(self.versions.updates.items()),
            "open": [asdict(rollout) for rollout in self.open.values()],
            "attempts": sorted(self.attempts.items()),
            "starts": self.ledger.state(),
            "scores": self.scores.state(),
            "buffer": self.buffer.state(),
            "waiting": waiting,
        } | ({} if self.drift is None else {"straying": self.drift.state()})
        return tensors, plain

    def _restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """What was in flight is asked for again, as new attempts, before anything new."""
        parts: dict[int, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            i, _, name = path.partition("/")
            parts.setdefault(int(i), {})[name] = tensor
        self.buffer.restore(
            plain["buffer"], [put_together(sample, parts[i]) for i, sample in enumerate(plain["waiting"])]
        )
        self.versions = VersionHistory((version, update) for version, update in plain["lineage"])
        self.next_rollout = plain["next_rollout"]
        self.attempts = dict(tuple(pair) for pair in plain["attempts"])
        self.ledger = WindowLedger(plain["starts"])
        self.scores = ScoreLedger(self.reward, plain["scores"])
        if self.drift is not None:
            self.drift.by_block = DriftTracker(plain["straying"]).by_block
        self.open = {rollout["id"]: rollout_of(rollout) for rollout in plain["open"]}
        missing = [r for r in (self._in_flight(rollout) for rollout in self.open.values()) if r.windows]
        for first in range(0, len(missing), self.rollout.batch):
            batch = missing[first : first + self.rollout.batch]
            self.returned.append(Dispatch([self._next_attempt(rollout) for rollout in batch]))

    def _in_flight(self, rollout: Rollout) -> Rollout:
        plans = tuple(plan for plan in rollout.windows if (rollout.id, plan.index) in self.buffer.pending)
        return replace(rollout, windows=plans)
