"""An actor of actors/, made remote."""

from collections.abc import Iterator, Sequence

import ray
import torch

from cluster.config import Config
from cluster.crew import make_actor
from cluster.weights import unpack
from models.rollout import Rollout, Trajectory, Weights, Window

_PULL_TIMEOUT_S = 60.0


class StageEnded(Exception):
    """Nobody waits for this rollout any more."""


class RemoteWeights:
    """The actor's side of the coordinator's weights."""

    def __init__(self, coordinator: ray.actor.ActorHandle, epoch: int):
        self.coordinator, self.epoch = coordinator, epoch

    def newer(self, than: int | None) -> Weights | None:
        """The newest weights if they are newer than `than`. Raises StageEnded when the stage is over."""
        reference = ray.get(self.coordinator.newer.remote(self.epoch, than), timeout=_PULL_TIMEOUT_S)
        if reference is None:
            return None
        return unpack(ray.get(reference[0], timeout=_PULL_TIMEOUT_S))


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class RolloutProcess:
    """One process of the rollout pool. It may die at any time; the coordinator asks for its rollouts again."""

    def __init__(self, coordinator: ray.actor.ActorHandle, threads: int):
        torch.set_num_threads(threads)
        self.coordinator = coordinator

    def begin(self, stage: str, config: Config, epoch: int) -> None:
        """Become the actor that supplies `stage`."""
        self.actor = make_actor(stage, config, RemoteWeights(self.coordinator, epoch))

    def windows(self, rollouts: Sequence[Rollout]) -> Iterator[Window | Trajectory]:
        """Stream the windows of `rollouts` (called with num_returns="streaming")."""
        yield from self.actor.windows(rollouts)
