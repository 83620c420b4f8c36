"""Run the cluster in one process, for debugging, tests and scans: the same supply, the same order of windows."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from actors.drift_tracker import DriftMeter
from cluster.evaluations.best_student import ending
from cluster.runs.cluster_interface import Report
from cluster.runs.factory import computing_of, make_actor, make_scorer, make_supply
from cluster.runs.stage_spec import StageSpec
from cluster.runs.trace import Tracer, shares_of
from cluster.supply.supply import Supply
from cluster.supply.supply_state import State, from_checkpoint, to_checkpoint
from cluster.supply.wire import BadWindow, open_item, seal
from cluster.weights.version import version_numbers
from models.records import Group, MadeBlock, Trajectory, Weights, Window, first_frames

if TYPE_CHECKING:
    from cluster.evaluations.student_evaluation import StudentEvaluator

_log = logging.getLogger(__name__)


class InlineCluster:
    """Makes rollouts when the learner requests windows that do not exist yet."""

    def __init__(self, run_dir: str):
        self.versions = version_numbers(run_dir)
        self.tracer = Tracer("inline")
        self.supply: Supply | None = None
        self.published: Weights | None = None
        self.evaluator: StudentEvaluator | None = None

    def begin(self, spec: StageSpec, state: State | None = None, kept: Collection[int] = ()) -> None:
        """Start supplying a stage, and cancel the rest of the one before."""
        self.tracer.settle()
        restored = None
        if state is not None:
            sealed = [seal(item) for item in from_checkpoint(state)]
            restored = state[1], [replace(header, payload=payload) for header, payload in sealed]
        self.supply = make_supply(spec, restored, kept)
        if state is not None:
            self.versions = version_numbers(spec.run_dir, state[1]["lineage"])
        self.spec, self.actor = spec.actor, make_actor(spec.actor, self)
        self.computing = computing_of(spec.actor.rollout)
        self.scorer = make_scorer(spec.scorer) if spec.name == "grpo" else None
        if self.scorer is not None:
            self.scorer.load()
        evaluated = spec.evaluation if spec.name != "ode" else None  # whose student nobody publishes
        self.evaluator = None
        if evaluated is not None:
            from cluster.evaluations.student_evaluation import StudentEvaluator  # OpenCV, SciPy and PyAV

            self.evaluator = StudentEvaluator(evaluated)
        self.evaluated: dict[str, float] = {}
        self.ended: str | None = None
        self.published = None
        self.number = 0

    def publish(self, weights: Callable[[], Mapping[str, Tensor]], update: int) -> None:
        """Publish the newest weights to the actor."""
        self.tracer.settle()
        version = next(self.versions)
        self.supply.versions.publish(version, update)
        stored = self.computing.cast(weights())
        self.published = Weights(version, {name: tensor.clone() for name, tensor in stored.items()})
        if self.evaluator is not None and update % self.evaluator.spec.keys.every == 0:
            with self.tracer.waiting("evaluation"):
                self.evaluated = self.evaluator(update, self.published)
            self.ended = ending(self.evaluator.spec, self.evaluated)

    def improving(self) -> bool:
        """Return whether the stage goes on, by the last evaluation; logs the line about its early end."""
        if self.ended is not None:
            _log.warning(self.ended)
        return self.ended is None

    def newer(self, than: int | None) -> Weights | None:
        """Return the published weights if they are newer than version `than` (the actor's side)."""
        if self.published is None or (than is not None and self.published.version <= than):
            return None
        return self.published

    def take(self, role: str, n: int) -> Sequence[Window | Group]:
        """Return the next `n` windows of a role."""
        while (taken := self.supply.take(self.number, role, n)) is None:
            with self.tracer.waiting("rollout"):
                self._roll_out()
        self.number += 1
        self.tracer.until_next(f"{role} update")
        return [open_item(header, header.payload) for header in taken]

    def take_all(self, role: str, n: int) -> Sequence[Trajectory | Group]:
        """Return the next `n` samples of a role, as `take`, because there is one rank."""
        return self.take(role, n)

    def _roll_out(self) -> None:
        dispatch = self.supply.next()
        assert dispatch is not None, "the learner asks for more than the stage makes"
        drift = DriftMeter(self.spec.student.horizon_frames) if self.spec.follows_drift else None
        try:
            for item in self.actor.windows(dispatch.rollouts):
                measured = drift.measure(item) if drift is not None and isinstance(item, MadeBlock) else None
                header, payload = seal(item, measured)
                header = replace(header, payload=payload)
                self.supply.validate(dispatch, header)
                if isinstance(item, Group):
                    blocks = [open_item(block, block.payload) for block in self.supply.reference(dispatch, header)]
                    first = first_frames(blocks, 0, item.start, self.spec.student.horizon_frames)
                    header = replace(header, scores=self.scorer(item, first).group.scores)
                self.supply.keep(dispatch, header)
        except BadWindow as bad:
            self.supply.refuse(bad)
            self.supply.give_back(dispatch, afresh=True)

    def state(self) -> State:
        """Return the supply's state for a checkpoint."""
        self.tracer.until_next("checkpoint", waits=True)
        plain, waiting = self.supply.state()
        return to_checkpoint(plain, [(header, open_item(header, header.payload)) for header in waiting])

    def metrics(self) -> dict[str, Any]:
        """Return the state of the supply."""
        evaluated, self.evaluated = self.evaluated, {}
        return shares_of(self.tracer) | ({} if self.supply is None else self.supply.metrics()) | evaluated

    def report(self, metrics: dict[str, Any]) -> Report:
        """Return windows taken and spans of this process since the last report."""
        return Report([] if self.supply is None else self.supply.ledger.drain(), self.tracer.drain())
