"""The cluster in one process: for debugging, tests and scans. The same supply, so the same windows in order."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from cluster.config.run_config import Config
from cluster.runs.cluster_interface import Report
from cluster.runs.factory import computing_of, make_actor, make_scorer, make_supply
from cluster.runs.trace import Tracer, shares_of
from cluster.supply.supply import State, Supply
from cluster.supply.validation import BadWindow, inspect_values
from cluster.weights.version import version_numbers
from models.records import Group, Trajectory, Weights, Window


class InlineCluster:
    """Makes rollouts when the learner asks for windows that are not there yet."""

    def __init__(self, config: Config):
        self.versions = version_numbers(config.run_dir)
        self.tracer = Tracer("inline")
        self.supply: Supply | None = None
        self.published: Weights | None = None

    def begin(self, stage: str, config: Config, state: State | None = None, kept: Collection[int] = ()) -> None:
        """Start supplying a stage: what is left of the one before is cancelled."""
        self.tracer.settle()
        self.supply = make_supply(stage, config, state, kept)
        if state is not None:
            self.versions = version_numbers(config.run_dir, state[1]["lineage"])
        self.actor, self.computing = make_actor(stage, config, self), computing_of(config)
        self.scorer = make_scorer(config) if stage == "grpo" else None
        self.published = None
        self.number = 0

    def publish(self, tensors: Mapping[str, Tensor], update: int) -> None:
        """Hand the newest weights to the actor."""
        self.tracer.settle()
        version = next(self.versions)
        self.supply.versions.publish(version, update)
        stored = self.computing.cast(tensors)
        self.published = Weights(version, {name: tensor.clone() for name, tensor in stored.items()})

    def newer(self, than: int | None) -> Weights | None:
        """The published weights if they are newer than version `than` (the actor's side)."""
        if self.published is None or (than is not None and self.published.version <= than):
            return None
        return self.published

    def take(self, role: str, n: int) -> Sequence[Window | Group]:
        """The next `n` windows of a role."""
        while (taken := self.supply.take(self.number, role, n)) is None:
            with self.tracer.waiting("rollout"):
                self._roll_out()
        self.number += 1
        self.tracer.until_next(f"{role} update")
        return taken

    def take_all(self, role: str, n: int) -> Sequence[Trajectory | Group]:
        """The next `n` samples of a role: there is one rank."""
        return self.take(role, n)

    def _roll_out(self) -> None:
        dispatch = self.supply.next()
        assert dispatch is not None, "the learner asks for more than the stage makes"
        try:
            for item in self.actor.windows(dispatch.rollouts):
                inspect_values(item)
                self.supply.inspect(dispatch, item)
                if isinstance(item, Group):
                    item = self.scorer(item, self.supply.reference(dispatch, item)).group
                self.supply.keep(dispatch, item)
        except BadWindow as bad:
            self.supply.refuse(bad)
            self.supply.give_back(dispatch, afresh=True)

    def state(self) -> State:
        """Everything about the supply that a checkpoint needs."""
        self.tracer.until_next("checkpoint", waits=True)
        return self.supply.state()

    def metrics(self) -> dict[str, Any]:
        """The state of the supply."""
        return shares_of(self.tracer) | ({} if self.supply is None else self.supply.metrics())

    def report(self, metrics: dict[str, Any]) -> Report:
        """Return windows taken and spans of this process since the last report."""
        return Report([] if self.supply is None else self.supply.ledger.drain(), self.tracer.drain())
