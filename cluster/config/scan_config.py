"""Declare the keys of a scan: the varied values, the seeds, the measurements and early stopping."""

from dataclasses import dataclass, fields
from typing import Any

from cluster.config.run_config import Config
from models.errors import ConfigError
from models.keys import KeyGroup, key, part

_VARIED = ("window", "rollout", "dmd", "buffer", "learner", "init")
"""Groups of keys that a scan may vary. Only stage dmd reads them, so all trials share one first student."""


@dataclass(kw_only=True)
class ScanConfig(KeyGroup, group="scan"):
    """Configures a scan: every combination of values on every seed is one trial, which trains stage dmd."""

    over: dict[str, list[Any]] = key(
        {},
        "values to scan by key, in all combinations, as {window: [uniform, prefix], dmd.batch_size: [8, 16]}",
        resumable=True,
    )
    along: dict[str, dict[str, list[str]]] = key(
        {},
        "further arguments of trials by scanned key and value, as {window.law: {prefix(1): [rollout.windows=1]}}",
        resumable=True,
    )
    seeds: list[int] = key(
        [0, 1, 2], "seeds of the trials; their common first student has the key seed", ge=0, resumable=True
    )
    cpus: float = key(1.0, "CPUs that Ray reserves for a trial of one process (cluster=inline)", gt=0, resumable=True)
    at_once: int | None = key(
        None, "largest number of concurrent trials; none: as many as have room", ge=1, resumable=True
    )
    every: int = key(25, "student updates between two measurements of a trial", ge=1, resumable=True)
    measured_videos: int = key(4, "videos per measurement of a trial", ge=1, le=100_000)
    measured_horizons: int = key(4, "length of a trial's measured videos, in teacher horizons", ge=1, le=10_000)
    keep: float = key(
        0.33,
        "share of trials that ASHA keeps at each rung, those of least drift; 1 keeps all",
        gt=0,
        le=1,
        resumable=True,
    )
    first_rung: int = key(
        50, "updates before ASHA may stop a trial; rungs follow at 1 / keep times as many", ge=1, resumable=True
    )
    videos: int = key(32, "videos of a trial's final measurement", ge=1, le=100_000)
    horizons: int = key(16, "length of a trial's final videos, in teacher horizons", ge=1, le=10_000)
    timeout_s: float = key(
        600.0, "longest time between two updates of a trial, in seconds; then it restarts", gt=0, resumable=True
    )
    retries: int = key(2, "restarts of a trial from its checkpoint, when its process is lost", ge=0, resumable=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("scan.seeds", self.seeds, "empty, or a seed twice", "write different seeds, as [0,1,2]")
        for name, values in self.over.items():
            check_values(name, values)


@dataclass(kw_only=True)
class Scan(Config):
    """Holds the keys of a run, and those of the scan over it."""

    scan: ScanConfig = part(ScanConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.in_wan_world:
            raise ConfigError(
                "student.model",
                self.student.model,
                "trials are compared by the judge of the tiny world",
                "leave student.model out",
            )
        if self.debug.half is not None:
            raise ConfigError(f"debug.{self.debug.half}", True, "a trial runs both halves", "leave it out")

    @property
    def plain(self) -> Config:
        """Return the run without the scan around it."""
        return Config(**{field.name: getattr(self, field.name) for field in fields(Config)})


def check_values(name: str, values: list[Any]) -> None:
    """Check that a scan can vary the key `name` over `values`. Raises ConfigError."""
    if name == "seed":
        raise ConfigError("seed", values, "a scan has a key of its own for seeds", "write scan.seeds=[0,1,2]")
    if name.partition(".")[0] not in _VARIED:
        raise ConfigError(
            name, values, "trials differ in stage dmd only", f"scan keys of {', '.join(_VARIED)}, or give one value"
        )
    if not values:
        raise ConfigError(f"scan.over.{name}", [], "no values", f"write {{{name}: [a, b]}}")
    if len({str(value) for value in values}) < len(values):
        raise ConfigError(f"scan.over.{name}", values, "a value is given twice", "write each value once")
