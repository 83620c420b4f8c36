"""What a loop may ask of the cluster: the same five verbs inline and on Ray."""

from collections.abc import Sequence
from typing import Protocol

from cluster.config import Config
from models.rollout import Trajectory, Weights, Window


class Cluster(Protocol):
    """The learner's view of everything that is not the learner."""

    def begin(self, stage: str, config: Config, next_rollout: int = 0) -> None:
        """Supply a stage from rollout `next_rollout` on; what is left of the stage before is cancelled."""

    def publish(self, weights: Weights) -> None:
        """Hand the newest weights over; actors pull them at their next block, nobody waits for them."""

    def take(self, role: str, n: int) -> Sequence[Window | Trajectory]:
        """`n` windows of a role, as soon as there are so many."""

    def position(self) -> dict[str, int]:
        """Where the supply stands, for a checkpoint: keyword arguments of `begin`."""

    def metrics(self) -> dict[str, object]:
        """The state of the supply."""
