"""The cluster in one process: for debugging, tests and scans. The same verbs, the same order of draws."""

import time
from collections.abc import Sequence

from cluster.buffer import WindowBuffer
from cluster.config import Config
from cluster.crew import make_actor, make_dispatcher
from models.rollout import Trajectory, Weights, Window


class InlineCluster:
    """Makes rollouts when the learner asks for windows that are not there yet."""

    def __init__(self, config: Config):
        self.buffer = WindowBuffer(config.cluster.buffer_windows, config.seed)
        self.published: Weights | None = None
        self.waited_s = 0.0

    def begin(self, stage: str, config: Config, next_rollout: int = 0) -> None:
        """Start supplying a stage: what is left of the one before is cancelled."""
        self.buffer.cancel()
        self.dispatcher = make_dispatcher(stage, config)
        self.actor = make_actor(stage, config, self)
        self.next_rollout = next_rollout
        self.published = None

    def publish(self, weights: Weights) -> None:
        """Hand the newest weights to the actors."""
        self.published = weights

    def newer(self, than: int | None) -> Weights | None:
        """The published weights if they are newer than version `than` (the actor's side)."""
        if self.published is None or (than is not None and self.published.version <= than):
            return None
        return self.published

    def take(self, role: str, n: int) -> Sequence[Window | Trajectory]:
        """`n` windows of a role."""
        while (taken := self.buffer.take(role, n)) is None:
            self._roll_out()
        return taken

    def _roll_out(self) -> None:
        started = time.monotonic()
        rollouts = self.dispatcher.rollouts(self.next_rollout)
        assert rollouts, "the learner asks for more than the stage makes"
        self.next_rollout += len(rollouts)
        self.buffer.expect(rollouts)
        for window in self.actor.windows(rollouts):
            self.buffer.put(window)
        self.waited_s += time.monotonic() - started

    def position(self) -> dict[str, int]:
        """Where the supply stands, for a checkpoint: what `begin` takes."""
        return {"next_rollout": self.next_rollout}

    def metrics(self) -> dict[str, object]:
        """The state of the supply."""
        return {"cluster/waited_s": self.waited_s} | self.buffer.metrics()
