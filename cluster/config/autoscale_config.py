"""Declare the keys of autoscaling."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key

_MOST_LOOKS = 500
"""Measurements that the meter keeps."""


@dataclass(kw_only=True)
class AutoscaleConfig(KeyGroup, group="autoscale"):
    """Configures limits and pace of a rollout pool that follows the measured costs of learner and actors."""

    enabled: bool = key(False, "size the rollout pool while it runs, from cluster.rollout_actors on")
    minimum: int = key(1, "smallest size of an autoscaled pool, in rollout processes", ge=1, le=100_000)
    maximum: int = key(16, "largest size of an autoscaled pool, in rollout processes", ge=1, le=100_000)
    waiting_share: float = key(
        0.05, "share of time that the learner may wait for windows before an autoscaled pool grows", ge=0, lt=1
    )
    gain: float = key(
        0.25, "smallest gain in updates per GPU-hour of an added actor, as a share of the rate without it", ge=0
    )
    growth: float = key(2.0, "largest growth of the pool in one step, as a factor", gt=1)
    gpu_hours: float | None = key(
        None, "budget of the rollout pool, in GPU-hours (process-hours without cluster.actor_gpus); then: minimum", gt=0
    )
    every_s: float = key(10.0, "seconds between two decisions of autoscaling", gt=0)
    measured_s: float = key(60.0, "seconds over which waiting and costs are measured", gt=0)
    grow_after_s: float = key(60.0, "seconds between a change of size and a growth", gt=0)
    shrink_after_s: float = key(300.0, "seconds between a change of size and a reduction", gt=0)

    def __post_init__(self):
        super().__post_init__()
        if self.minimum > self.maximum:
            raise ConfigError(
                "autoscale.minimum",
                self.minimum,
                f"above autoscale.maximum={self.maximum}",
                f"write autoscale.minimum={self.maximum} or less",
            )
        if self.measured_s > _MOST_LOOKS * self.every_s:
            raise ConfigError(
                "autoscale.every_s",
                self.every_s,
                f"more than {_MOST_LOOKS} measurements in autoscale.measured_s={self.measured_s}",
                f"write autoscale.every_s={self.measured_s / _MOST_LOOKS:g} or more",
            )
        for name in ("grow_after_s", "shrink_after_s"):
            if getattr(self, name) < self.measured_s:
                raise ConfigError(
                    f"autoscale.{name}",
                    getattr(self, name),
                    f"shorter than autoscale.measured_s={self.measured_s}, so it would judge the size before",
                    f"write autoscale.{name}={self.measured_s} or more",
                )
