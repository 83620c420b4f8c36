"""The cluster as the learner sees it: the same verbs as `InlineCluster`, with a coordinator behind them."""

from collections.abc import Sequence

import ray

from cluster.config import Config
from cluster.weights import pack
from models.rollout import Trajectory, Weights, Window

_CALL_TIMEOUT_S = 120.0


class RayCluster:
    """Lives in a learner rank."""

    def __init__(self, coordinator: ray.actor.ActorHandle, config: Config):
        self.coordinator, self.config = coordinator, config

    def begin(self, stage: str, config: Config, next_rollout: int = 0) -> None:
        """Start supplying a stage: what is left of the one before is cancelled."""
        ray.get(self.coordinator.begin.remote(stage, config, next_rollout), timeout=_CALL_TIMEOUT_S)

    def publish(self, weights: Weights) -> None:
        """Hand the newest weights to the coordinator, which owns them from then on."""
        ray.get(self.coordinator.publish.remote(pack(weights)), timeout=_CALL_TIMEOUT_S)

    def take(self, role: str, n: int) -> Sequence[Window | Trajectory]:
        """`n` windows of a role."""
        timeout = self.config.cluster.timeout_s + _CALL_TIMEOUT_S
        return ray.get(self.coordinator.take.remote(role, n), timeout=timeout)

    def position(self) -> dict[str, int]:
        """Where the supply stands, for a checkpoint: what `begin` takes."""
        return ray.get(self.coordinator.position.remote(), timeout=_CALL_TIMEOUT_S)

    def metrics(self) -> dict[str, object]:
        """The state of the supply."""
        return ray.get(self.coordinator.metrics.remote(), timeout=_CALL_TIMEOUT_S)

    def show(self, stage: str, step: int, steps: int, line: str) -> None:
        """Progress for the display; nobody waits for it."""
        self.coordinator.show.remote(stage, step, steps, line)
