"""Declare the keys of a run's checkpoints."""

from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key


@dataclass(kw_only=True)
class CheckpointConfig(KeyGroup, group="checkpoint"):
    """Pace of checkpoints, and how many stay."""

    every: int = key(25, "updates between checkpoints", ge=1)
    keep: int = key(2, "number of newest checkpoints to keep", ge=1)
    keep_every: int | None = key(
        None, "steps between checkpoints that are never deleted, a multiple of checkpoint.every; none: keep none", ge=1
    )
    asynchronous: bool = key(True, "write checkpoints in the background, from a copy in CPU memory")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_every is not None and self.keep_every % self.every:
            raise ConfigError(
                "checkpoint.keep_every",
                self.keep_every,
                f"no multiple of checkpoint.every={self.every}",
                f"write checkpoint.keep_every={self.keep_every - self.keep_every % self.every or self.every}",
            )
