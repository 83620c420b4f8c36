"""Keys of plan.py, beside those of the run that it plans. Imports no torch: help must be quick."""

import math
from dataclasses import dataclass, field

from cluster.config.run_config import Config
from models.keys import key, require_positive

COSTS = ("block_s", "cut_s", "student_window_s", "critic_window_s", "publish_s")
"""Keys that give a cost in seconds."""


@dataclass(kw_only=True)
class PlanConfig:
    """What is planned, from which costs."""

    learner_gpus: int | None = key(None, "GPUs of the learner, one for each rank; without, cluster.learner_ranks")
    rollout_gpus: list[int] = key([], "pools to look at, in GPUs, as [8,16,24]; empty: around the cheapest")
    costs: str | None = key(
        None, "measured costs: metrics.jsonl of a run, or lines of benchmarks/rollout_fps; without, device_name's table"
    )
    block_s: float | None = key(None, "seconds of one block of all videos (rollout.batch) that an actor makes together")
    cut_s: float | None = key(None, "seconds of cutting one window from the middle of a video (Wan: an image latent)")
    student_window_s: float | None = key(None, "seconds of one window of the student's update on one learner GPU")
    critic_window_s: float | None = key(None, "seconds of one window of a critic's update on one learner GPU")
    publish_s: float | None = key(None, "seconds that handing over new weights adds to an update")
    updates: int = key(100, "student updates that are played through for each pool; the stage goes on as they end")
    gpu_hour_price: float = key(2.5, "price of one GPU for one hour, in whatever you pay with")
    budget_gpu_days: float = key(48.0, "GPU-days of which is said how many updates they buy; the paper took 48")
    plot: str | None = key(None, "picture (png) of waiting and cost against rollout GPUs")

    def __post_init__(self):
        if self.learner_gpus is not None:
            require_positive("plan", self, "learner_gpus")
        if any(gpus < 1 for gpus in self.rollout_gpus):
            raise ValueError(f"plan.rollout_gpus is {self.rollout_gpus}; a pool has 1 GPU or more")
        for name in COSTS:
            value, floor = getattr(self, name), "0 or above" if name in ("cut_s", "publish_s") else "above 0"
            if value is not None and not (0 <= value < math.inf and (value or floor == "0 or above")):
                raise ValueError(f"plan.{name} is {value}; it must be {floor} and finite")
        require_positive("plan", self, "updates", "budget_gpu_days")
        if not 0 <= self.gpu_hour_price < math.inf:
            raise ValueError(f"plan.gpu_hour_price is {self.gpu_hour_price}; it must be 0 or above and finite")
        if self.plot is not None and not self.plot.endswith(".png"):
            raise ValueError(f"plan.plot is {self.plot}; give a file that ends in .png")


@dataclass(kw_only=True)
class PlannedRun(Config):
    """Hold the keys of a run and those of its plan."""

    plan: PlanConfig = field(default_factory=PlanConfig)
