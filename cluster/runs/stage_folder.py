"""Where one stage of a run keeps its checkpoints and its result."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cluster.config.checkpoint_config import CheckpointConfig
from cluster.runs import checkpoint
from cluster.runs.checkpoint import Snapshot
from cluster.runs.checkpoint_writer import CheckpointWriter, Say
from learner.parallel import collectives
from models.checkpoints.weight_files import save_weights, verify_weights

State = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]
"""Tensors by group, and the rest: plain values that msgpack keeps (tuples come back as lists)."""
Supply = tuple[dict[str, Tensor], dict[str, Any]]
"""The state of the supply of windows: what waits in the buffer, and the rest."""

_SUPPLY = "supply"
_log = logging.getLogger(__name__)


class Resumable(Protocol):
    """What a checkpoint is made from. Both methods are collectives: every rank calls them."""

    def state(self) -> State:
        """New dictionaries at every call, of tensors that may be the live ones; on ranks other than 0 empty."""

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Put back what `state` gave rank 0; `tensors` are read-only."""


class StageFolder:
    """`<run>/<stage>/`: `checkpoints/step_*`, and the result when the stage is finished.

    Rank 0 writes and chooses; save, restore and finish are collectives, and a failure of rank 0 stops every rank. Use
    as a context, or call `close`: a write may be under way.
    """

    def __init__(
        self,
        path: Path,
        result: str = "student.safetensors",
        config: CheckpointConfig | None = None,
        say: Say = _log.warning,
    ):
        """`say` brings a line to the terminal: by default the log's, which Ray forwards from the learner's process."""
        self.path, self.result, self.say = path, path / result, say
        self.checkpoints = path / "checkpoints"
        self.config = CheckpointConfig() if config is None else config
        self.writer = CheckpointWriter(say)
        self.waited_s = 0.0
        """Seconds that training has waited for checkpoints to be written."""

    def __enter__(self) -> "StageFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def finished(self) -> bool:
        """Whether the stage has its result; a finished stage is not run again.

        Rank 0's answer, on every rank (a collective): shared storage may show a new file late to some.
        """
        return bool(collectives.broadcast(int(self.result.is_file())))

    def save(self, learner: Resumable, step: int, supply: Supply | None = None) -> None:
        """Checkpoint `learner` and the state of its supply of windows; the writing goes on in the background.

        What is saved is what is now, whatever training does next. Waits for the write before, and raises its
        CheckpointNotWritten. The caller evaluates `supply` before any collective of this method begins: a rank that is
        ahead is held by them and cannot take windows of the next step, so that `supply` is that of this step.
        """
        self._drain()
        tensors, state = learner.state()
        collectives.run_on_rank0(lambda: self._start(step, tensors, state, ({}, {}) if supply is None else supply))
        if not self.config.asynchronous:
            self._drain()

    def restore(self, learner: Resumable) -> Supply | None:
        """Put the newest whole checkpoint, the same on every rank, into `learner`; returns the supply's state as saved.

        None where there is no checkpoint. Damaged ones that are newer are moved aside, and said. Raises
        DamagedCheckpoint if all are damaged, and ValueError for the checkpoint of another model before anything is
        changed.
        """
        path = self._agreed(collectives.run_on_rank0(self._choose))
        if path is None:
            return None
        wanted = {
            group: {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            for group, tensors in learner.state()[0].items()
        }
        collectives.run_on_rank0(lambda: checkpoint.check_fit(path, wanted | {_SUPPLY: {}}))
        if not path.is_dir():
            raise ValueError(
                f"rank {collectives.rank()} does not see {path}; put run_dir on storage that all nodes share"
            )
        tensors, state = checkpoint.read(path)
        # A mapped file would stay open for as long as one of its windows waits in the buffer.
        waiting = {name: tensor.clone() for name, tensor in tensors.pop(_SUPPLY).items()}
        learner.load_state(tensors, state["learner"])
        return waiting, state[_SUPPLY]

    def verify(self) -> None:
        """Refuse, before anything starts, a damaged result, or checkpoints none of which is whole; changes nothing.

        Says which checkpoints are damaged. Raises ValueError.
        """
        if self.finished:
            if not verify_weights(self.result, "run_dir"):
                raise ValueError(
                    f"run_dir: {self.result} has lost its checksum; remove it, and the stage makes it again"
                )
            return
        path, damaged = checkpoint.newest_whole(self.checkpoints)
        for error in damaged.values():
            self.say(f"{error}; {path} is whole, and the stage will go on from it")

    def finish(self, tensors: dict[str, Tensor], origin: dict[str, object], **beside: dict[str, Tensor]) -> None:
        """Write the result, whole or not at all, with its origin and a checksum in the header (rank 0's `tensors`).

        Before it, because it says that the stage is finished, `<name>.safetensors` of every network that goes `beside`.
        """
        self._drain()
        for name, weights in beside.items():
            collectives.run_on_rank0(partial(save_weights, weights, self.path / f"{name}.safetensors", origin))
        collectives.run_on_rank0(lambda: save_weights(tensors, self.result, origin))

    def close(self) -> None:
        """Wait for this process's write, and raise its CheckpointNotWritten. No collective: a rank may fail alone."""
        self.writer.wait()

    def _start(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], supply: Supply) -> None:
        assert _SUPPLY not in tensors, f"{_SUPPLY} is no group of a learner"
        tensors[_SUPPLY], position = supply
        snapshot = Snapshot.of(step, tensors, {"learner": state, _SUPPLY: position})
        write = partial(checkpoint.write, self.checkpoints, snapshot, self.config.keep, self.config.keep_every)
        self.writer.start(checkpoint.path_of(self.checkpoints, step), write)

    def _drain(self) -> None:
        started = time.monotonic()
        collectives.run_on_rank0(self.writer.wait)
        self.waited_s += time.monotonic() - started

    def _choose(self) -> Path | None:
        checkpoint.tidy(self.checkpoints)
        path, damaged = checkpoint.newest_whole(self.checkpoints)
        for bad, error in damaged.items():
            aside = checkpoint.set_aside(bad)
            self.say(f"{error}; moved it to {aside.name}, and the stage goes on from {path}")
        return path

    def _agreed(self, path: Path | None) -> Path | None:
        """Rank 0's choice, on every rank."""
        if not collectives.broadcast(int(path is not None)):
            return None
        return checkpoint.path_of(
            self.checkpoints, collectives.broadcast(0 if path is None else checkpoint.step_of(path))
        )
