"""Declare the keys of the ways to make a video longer than the student's horizon."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key, nearest_multiples
from models.network_config import StudentConfig


@dataclass(kw_only=True)
class MethodKeys(KeyGroup):
    """Chooses how a video continues past one horizon."""

    extend: str = key(
        "rolling",
        "way past one horizon: rolling keeps the last frames in the cache and goes on; overlap begins a new horizon "
        "with the last frames of the one before, as CausVid does",
        choices=("rolling", "overlap"),
    )
    overlap: int | None = key(
        None,
        "latent frames that a horizon of extend=overlap has in common with the one before, in whole blocks; none: one "
        "block",
        ge=1,
        le=100_000,
    )

    def check_overlap(self, student: StudentConfig, sink: int, recache: bool) -> None:
        """Check the keys of horizons that overlap; `sink` counts the frames that are kept. Raises ConfigError."""
        if self.extend != "overlap":
            if self.overlap is not None:
                fix = "write extend=overlap too, or leave overlap out"
                raise ConfigError("overlap", self.overlap, f"extend={self.extend} has none", fix)
            return
        block, horizon = student.block_frames, student.horizon_frames
        if horizon == block:
            problem = f"a horizon of {horizon} frames is one block, and nothing follows an overlap"
            raise ConfigError("extend", self.extend, problem, "write a larger student.horizon_frames")
        if self.overlap is not None and self.overlap >= horizon:
            problem = f"no part of a horizon of {horizon} frames"
            raise ConfigError("overlap", self.overlap, problem, f"write overlap={horizon - block} or less")
        if self.overlap is not None and self.overlap % block:
            fix = nearest_multiples("overlap", self.overlap, block)
            raise ConfigError("overlap", self.overlap, f"no multiple of student.block_frames={block}", fix)
        if sink:
            problem = "each horizon of extend=overlap begins with an empty cache, which keeps no sink"
            raise ConfigError("sink", sink, problem, "write sink=0, or extend=rolling")
        if recache:
            problem = "extend=overlap remembers nothing beyond its horizon that could be read again"
            raise ConfigError("recache", True, problem, "leave recache out, or write extend=rolling")
