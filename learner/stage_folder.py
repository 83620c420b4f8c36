"""Where one stage of a run keeps its checkpoints and its result."""

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from learner import checkpoint
from models.files import save_weights


class Resumable(Protocol):
    """What a checkpoint is made from."""

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]: ...

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None: ...


class StageFolder:
    """`<run>/<stage>/`: `checkpoints/step_*`, and the result when the stage is finished."""

    def __init__(self, path: Path, result: str = "student.safetensors"):
        self.path = path
        self.result = path / result

    @property
    def finished(self) -> bool:
        """Whether the stage has its result; a finished stage is not run again."""
        return self.result.is_file()

    def save(self, learner: Resumable, step: int, **position: int) -> None:
        """Checkpoint `learner` and the position of its supply."""
        tensors, state = learner.state()
        checkpoint.save(self.path / "checkpoints", step, tensors, {"learner": state, "position": position})

    def restore(self, learner: Resumable) -> dict[str, int]:
        """Put the newest checkpoint, if there is one, into `learner`; returns the saved position."""
        newest = checkpoint.newest(self.path / "checkpoints")
        if newest is None:
            return {}
        tensors, state = checkpoint.load(newest)
        learner.load_state(tensors, state["learner"])
        return state["position"]

    def verify(self) -> None:
        """Refuse a damaged newest checkpoint before anything starts."""
        newest = checkpoint.newest(self.path / "checkpoints")
        if newest is not None:
            checkpoint.verify(newest)

    def finish(self, module: nn.Module, origin: dict[str, object]) -> None:
        """Write the result: whole, or not at all."""
        save_weights(module, self.result, origin)
