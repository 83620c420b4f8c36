"""What a loop may ask of the cluster: the same verbs inline and on Ray."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from cluster.config.run_config import Config
from cluster.runs.trace import Span
from cluster.supply.supply import State
from models.records import Group, Trajectory, Window


class Cluster(Protocol):
    """The learner's view of everything that is not the learner. Every rank calls every verb, in the same order."""

    def begin(self, stage: str, config: Config, state: State | None = None, kept: Collection[int] = ()) -> None:
        """Supply a stage, from a checkpoint's `state` if there is one; what is left of the one before is cancelled.

        `kept`: numbers of trajectories (stage ode) that need not be made.
        """

    def publish(self, tensors: Mapping[str, Tensor], update: int) -> None:
        """Hand over the student as it is after `update` updates; actors pull it at their next block.

        Nobody waits for an actor. Every version gets a number that no version of this run had before.
        """

    def take(self, role: str, n: int) -> Sequence[Window | Group]:
        """This rank's share of the next `n` windows of a role: on all ranks together, each comes exactly once."""

    def take_all(self, role: str, n: int) -> Sequence[Trajectory | Group]:
        """The next `n` samples of a role, all of them on every rank."""

    def state(self) -> State | None:
        """Everything about the supply that a checkpoint needs (None on ranks that write none).

        Ask before the learner's own state: gathering that holds back the ranks that would go on taking.
        """

    def metrics(self) -> dict[str, Any]:
        """The state of the supply and of the roles since this was last asked; docs/metrics.md explains each key."""

    def expose(self, metrics: dict[str, Any]) -> None:
        """Show the metrics of an update to whoever watches from outside (Ray's metrics port; inline nobody)."""

    def ledger(self) -> list[dict[str, Any]]:
        """Every window taken since this was last asked."""

    def spans(self) -> list[Span]:
        """What all processes did since this was last asked."""
