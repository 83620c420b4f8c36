"""Declare the keys of plan.py, besides those of the planned run."""

from dataclasses import dataclass

from cluster.config.run_config import Config
from models.errors import ConfigError
from models.keys import KeyGroup, key, part

COSTS = ("block_s", "cut_s", "student_window_s", "critic_window_s", "publish_s")
"""Keys that give a cost in seconds."""


@dataclass(kw_only=True)
class PlanConfig(KeyGroup, group="plan"):
    """Configures the pools to compare, their costs, and the price of a GPU."""

    learner_gpus: int | None = key(
        None, "GPUs of the learner, one rank on each; none: cluster.learner_ranks", ge=1, le=100_000
    )
    rollout_gpus: list[int] = key(
        [], "sizes of the rollout pool to compare, in GPUs, as [8,16,24]; []: around the cheapest", ge=1, le=100_000
    )
    costs: str | None = key(
        None, "measured costs: metrics.jsonl of a run, or lines of benchmarks/rollout_fps; none: device_name's table"
    )
    block_s: float | None = key(None, "seconds of one block of all rollout.batch videos of an actor", gt=0)
    cut_s: float | None = key(None, "seconds to cut one window from the middle of a video", ge=0)
    student_window_s: float | None = key(None, "seconds of one window of the student's update, on one GPU", gt=0)
    critic_window_s: float | None = key(None, "seconds of one window of a critic's update, on one GPU", gt=0)
    publish_s: float | None = key(None, "seconds that publishing new weights adds to an update", ge=0)
    updates: int = key(100, "student updates to simulate for each pool", ge=1, le=100_000)
    gpu_hour_price: float = key(2.5, "price of one GPU-hour, in any currency", ge=0)
    budget_gpu_days: float = key(48.0, "budget in GPU-days; the report says how many updates it buys", gt=0)
    plot: str | None = key(None, "file (png) for a figure of waiting and cost against rollout GPUs")

    def __post_init__(self):
        super().__post_init__()
        if self.plot is not None and not self.plot.endswith(".png"):
            raise ConfigError("plan.plot", self.plot, "no png file", "write a name that ends in .png")


@dataclass(kw_only=True)
class PlannedRun(Config):
    """Holds the keys of a run and those of its plan."""

    plan: PlanConfig = part(PlanConfig)
