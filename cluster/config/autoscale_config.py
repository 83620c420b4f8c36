"""Keys of the rollout pool that sizes itself. Imports no torch: help must be quick."""

from dataclasses import dataclass

from models.keys import key, require_positive, require_share

_MOST_LOOKS = 500


@dataclass(kw_only=True)
class AutoscaleConfig:
    """A rollout pool whose size follows what learner and actors are measured to take."""

    enabled: bool = key(False, "size the rollout pool while it runs; cluster.rollout_actors is its size at the start")
    minimum: int = key(1, "rollout processes at least, whatever is measured or spent")
    maximum: int = key(16, "rollout processes at most")
    waiting_share: float = key(0.05, "share of its time that the learner may wait for windows; above it the pool grows")
    gain: float = key(
        0.25, "updates per GPU-hour that an added actor must bring, as a share of those that the run has without it"
    )
    growth: float = key(2.0, "the pool becomes at most this many times larger at once")
    gpu_hours: float | None = key(
        None,
        "budget of the rollout pool in hours of whole GPUs (of processes without cluster.actor_gpus); then: minimum",
    )
    every_s: float = key(10.0, "seconds between two looks at the pool")
    measured_s: float = key(60.0, "seconds over which waiting and costs are measured")
    grow_after_s: float = key(60.0, "seconds after a change of size before the pool grows")
    shrink_after_s: float = key(300.0, "seconds after a change of size before the pool shrinks")

    def __post_init__(self):
        require_positive("autoscale", self, "minimum", "maximum", "every_s", "measured_s", "grow_after_s")
        require_positive("autoscale", self, "shrink_after_s")
        require_share("autoscale", self, "waiting_share")
        if self.minimum > self.maximum:
            raise ValueError(
                f"autoscale.minimum = {self.minimum} is above autoscale.maximum = {self.maximum}; lower the one or "
                "raise the other"
            )
        if self.measured_s > _MOST_LOOKS * self.every_s:
            raise ValueError(
                f"autoscale.every_s = {self.every_s} is too short for autoscale.measured_s = {self.measured_s}: "
                f"{_MOST_LOOKS} looks are remembered at most; raise it"
            )
        if not self.gain >= 0:
            raise ValueError(f"autoscale.gain is {self.gain}; it must be 0 (any size is worth it) or above")
        if not self.growth > 1:
            raise ValueError(f"autoscale.growth is {self.growth}; it must be above 1")
        if self.gpu_hours is not None and not self.gpu_hours > 0:
            raise ValueError(f"autoscale.gpu_hours is {self.gpu_hours}; give hours above 0, or none for no budget")
        for name in ("grow_after_s", "shrink_after_s"):
            if getattr(self, name) < self.measured_s:
                raise ValueError(
                    f"autoscale.{name} = {getattr(self, name)} is shorter than autoscale.measured_s = "
                    f"{self.measured_s}: it would judge a size by what another one measured; raise it"
                )
