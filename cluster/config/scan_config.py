"""Keys of a scan: what is varied, on which seeds, how trials are measured, and which of them may be stopped."""

from dataclasses import dataclass, field
from typing import Any

from cluster.config.run_config import Config
from models.keys import key, require_positive

_VARIED = ("window", "rollout", "dmd", "buffer", "learner", "init")
"""What stage dmd alone depends on: the student that it starts from is made once, for all trials."""


@dataclass(kw_only=True)
class ScanConfig:
    """A scan: every combination of values on every seed is one trial, which trains stage dmd."""

    over: dict[str, list[Any]] = key(
        {}, "values by key, each combined with each: {window: [uniform, prefix], dmd.student_lr: [1e-4, 2e-4]}; "
        "key=value,value on the command line says the same"
    )  # fmt: skip
    along: dict[str, dict[str, list[str]]] = key(
        {}, "what else a value is trained with: {window.law: {prefix(1): [rollout.windows=1]}}"
    )
    seeds: list[int] = key([0, 1, 2], "seeds of the trials; seed itself is that of the student that all start from")
    cpus: float = key(1.0, "CPUs that Ray reserves for a trial of one process (cluster=inline)")
    at_once: int | None = key(None, "trials that run together at most; without, as many as are sure to have room")
    every: int = key(25, "updates between two measurements of a trial")
    measured_videos: int = key(4, "short videos of a measurement")
    measured_horizons: int = key(4, "their length in teacher horizons; drift is the share of frames lost in the last")
    keep: float = key(0.33, "share of trials that go on at each rung of ASHA, those of the least drift; 1 stops none")
    first_rung: int = key(50, "updates before ASHA may stop a trial; rungs follow at 1 / keep times as many")
    videos: int = key(32, "videos by which a finished trial is judged")
    horizons: int = key(16, "their length in teacher horizons")
    timeout_s: float = key(600.0, "longest silence of a trial between two updates; then it is started again")
    retries: int = key(2, "times that a trial is started again, from its checkpoint, when its process is lost")

    def __post_init__(self):
        names = ("cpus", "every", "measured_videos", "measured_horizons", "first_rung", "videos", "horizons")
        given = () if self.at_once is None else ("at_once",)
        require_positive("scan", self, *names, *given, "timeout_s")
        if not 0 < self.keep <= 1:
            raise ValueError(f"scan.keep is {self.keep}; it must be above 0 and at most 1")
        if self.retries < 0:
            raise ValueError(f"scan.retries is {self.retries}; it must be 0 or above")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"scan.seeds is {self.seeds}; name different seeds, 0 or above, at least one")
        for name, values in self.over.items():
            check_values(name, values)


@dataclass(kw_only=True)
class Scan(Config):
    """A run of many trials: the keys of a run, and those of the scan."""

    scan: ScanConfig = field(default_factory=ScanConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.in_wan_world:
            raise ValueError(
                f"student.model={self.student.model} is of another world, and trials are compared by the tiny "
                "one's judge; leave it out"
            )
        if self.debug.half is not None:
            raise ValueError(f"debug.{self.debug.half} is one half of a run, and trials are whole; leave it out")


def check_values(name: str, values: list[Any]) -> None:
    """Refuse what a scan cannot vary. Raises ValueError."""
    if name == "seed":
        raise ValueError("seed is scanned by a key of its own; name the seeds as scan.seeds=[0,1,2]")
    if name.partition(".")[0] not in _VARIED:
        raise ValueError(
            f"{name} cannot be scanned: trials differ in stage dmd only; scan keys of {', '.join(_VARIED)}"
        )
    if not values:
        raise ValueError(f"scan.over has no values for {name}; name some, as in {name}: [a, b]")
    if len({str(value) for value in values}) < len(values):
        raise ValueError(f"scan.over has a value of {name} twice: {values}; name each once")
