"""The keys of a run's checkpoints."""

from dataclasses import dataclass

from models.keys import key, require_positive


@dataclass(kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, and which of them stay."""

    every: int = key(25, "updates between checkpoints")
    keep: int = key(2, "newest checkpoints that stay: one is taken if those after it are damaged")
    keep_every: int | None = key(
        None, "the checkpoint of every such step stays for ever; a multiple of checkpoint.every"
    )
    asynchronous: bool = key(True, "write while training goes on: costs CPU memory for one copy of what is written")

    def __post_init__(self) -> None:
        require_positive("checkpoint", self, "every", "keep")
        if self.keep_every is None:
            return
        require_positive("checkpoint", self, "keep_every")
        if self.keep_every % self.every:
            raise ValueError(
                f"checkpoint.keep_every is {self.keep_every}, no multiple of checkpoint.every = {self.every}; change "
                "checkpoint.keep_every"
            )
