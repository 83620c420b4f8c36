"""Manage the folder of a stage: its checkpoints, written in the background, and its result."""

import logging
import time
from concurrent import futures
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from cluster.config.checkpoint_config import CheckpointConfig
from cluster.runs import checkpoint
from cluster.runs.checkpoint import Say, Snapshot
from learner.parallel import collectives
from models.checkpoints.weight_files import save_weights, verify_weights
from models.errors import ConfigError, StopsRun

LearnerState = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]
"""Tensors by group, and plain values that msgpack keeps (tuples come back as lists)."""
SupplyState = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors of the windows in the buffer, and plain values."""

_SUPPLY = "supply"
_LINE_EVERY_S = 30.0
_log = logging.getLogger(__name__)


class CheckpointNotWritten(StopsRun):
    """Reports a checkpoint that could not be written; earlier ones are unchanged."""


class Resumable(Protocol):
    """Saves and loads a learner. Both methods are collectives: every rank calls them."""

    def state(self) -> LearnerState:
        """Collect copies of all tensors on the CPU, which training never writes to; empty on ranks other than 0."""

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Load the result of `state` on rank 0; `tensors` are read-only."""


class StageFolder(AbstractContextManager):
    """Keeps `<run>/<stage>/`: `checkpoints/step_*`, and the result when the stage is finished.

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
        """Open the folder; `say` takes a line for the user (default: the log, which Ray forwards to the terminal)."""
        self.path, self.result, self.say = path, path / result, say
        self.checkpoints = path / "checkpoints"
        self.config = CheckpointConfig() if config is None else config
        self.pool = futures.ThreadPoolExecutor(1, "checkpoint")
        """Its thread ends with the interpreter, which waits for it: an exit does not cut a write in two."""
        self.pending: tuple[Path, futures.Future] | None = None
        """The checkpoint that is being written."""
        self.waited_s = 0.0
        """Seconds that training has waited for checkpoints to be written."""

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def finished(self) -> bool:
        """Return whether the stage has its result; a finished stage is not run again.

        Rank 0's answer, on every rank (a collective): shared storage may show a new file late to some.
        """
        return bool(collectives.broadcast(int(self.result.is_file())))

    def save(self, learner: Resumable, step: int, supply: SupplyState | None = None) -> None:
        """Save `learner` and the state of its supply as a checkpoint; the file is written in the background.

        Holds copies, whatever training does next. Waits for the write before, and raises its CheckpointNotWritten. The
        caller evaluates `supply` before any collective of this method begins: a rank that is ahead is held by them and
        cannot take windows of the next step, so that `supply` is that of this step.
        """
        self._drain()
        tensors, state = learner.state()
        assert _SUPPLY not in tensors, f"{_SUPPLY} is no group of a learner"

        def start() -> None:
            waiting, rest = ({}, {}) if supply is None else supply
            tensors[_SUPPLY] = checkpoint.dense_copies(waiting)  # windows are views of larger payloads
            snapshot = Snapshot.of(step, tensors, {"learner": state, _SUPPLY: rest})
            path = self.checkpoints / checkpoint.NAME.format(step)
            self.pending = path, self.pool.submit(self._write, path, snapshot)

        collectives.run_on_rank0(start)
        if not self.config.asynchronous:
            self._drain()

    def restore(self, learner: Resumable) -> SupplyState | None:
        """Load the newest whole checkpoint, the same on every rank, into `learner`; returns the supply's state.

        None where there is no checkpoint. Newer damaged ones are moved aside with a line for the user. Raises
        DamagedCheckpoint if all are damaged, and ValueError for the checkpoint of another model before anything is
        changed.
        """

        def choose() -> Path | None:
            checkpoint.tidy(self.checkpoints)
            path, damaged = checkpoint.newest_valid(self.checkpoints)
            for bad, error in damaged.items():
                aside = checkpoint.set_aside(bad)
                self.say(f"{error}; moved it to {aside.name}, and the stage resumes from {path}")
            return path

        chosen = collectives.run_on_rank0(choose)
        step = collectives.broadcast(-1 if chosen is None else checkpoint.step_of(chosen))
        if step < 0:
            return None
        path = self.checkpoints / checkpoint.NAME.format(step)
        wanted = {
            group: {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            for group, tensors in learner.state()[0].items()
        }
        collectives.run_on_rank0(lambda: checkpoint.check_shapes(path, wanted | {_SUPPLY: {}}))
        if not path.is_dir():
            raise ConfigError(
                "run_dir", self.path.parent, f"rank {collectives.rank()} does not see {path}",
                "write a folder on storage that all nodes share",
            )  # fmt: skip
        tensors, state = checkpoint.read(path)
        # A mapped file would stay open for as long as one of its windows waits in the buffer.
        waiting = {name: tensor.clone() for name, tensor in tensors.pop(_SUPPLY).items()}
        learner.load_state(tensors, state["learner"])
        return waiting, state[_SUPPLY]

    def verify(self) -> None:
        """Reject a damaged result, or checkpoints none of which is whole; changes nothing.

        Reports which checkpoints are damaged. Raises ValueError.
        """
        if self.finished:
            if not verify_weights(self.result, "run_dir"):
                raise ConfigError(
                    "run_dir", None, f"{self.result} has lost its checksum", "remove it, and the stage makes it again"
                )
            return
        path, damaged = checkpoint.newest_valid(self.checkpoints)
        for error in damaged.values():
            self.say(f"{error}; {path} is whole, and the stage will resume from it")

    def finish(self, tensors: dict[str, Tensor], origin: dict[str, object], **beside: dict[str, Tensor]) -> None:
        """Write the result, whole or not at all, with its origin and a checksum in the header (rank 0's `tensors`).

        Before it, because it says that the stage is finished, `<name>.safetensors` of every network that goes `beside`.
        """
        self._drain()
        for name, weights in beside.items():
            collectives.run_on_rank0(partial(save_weights, weights, self.path / f"{name}.safetensors", origin))
        collectives.run_on_rank0(lambda: save_weights(tensors, self.result, origin))

    def close(self) -> None:
        """Wait for this process's write, and raise its CheckpointNotWritten, once.

        No collective: a rank may fail alone.
        """
        started = time.monotonic()
        while self._still_writing(started):
            pass
        if self.pending is not None:
            (_, written), self.pending = self.pending, None
            written.result()

    def _still_writing(self, started_s: float) -> bool:
        """Wait some seconds for this process's write; return whether it takes longer, with a line for the user."""
        if self.pending is None or not futures.wait([self.pending[1]], timeout=_LINE_EVERY_S).not_done:
            return False
        waited_s = time.monotonic() - started_s
        self.say(f"checkpoint {self.pending[0]} is still being written; training has waited {waited_s:.0f} s for it")
        return True

    def _write(self, path: Path, snapshot: Snapshot) -> None:
        """Write in the thread; a failure is reported at once and raised by the next `close`."""
        try:
            checkpoint.write(self.checkpoints, snapshot, self.config.keep, self.config.keep_every)
        except Exception as error:
            line = f"checkpoint {path} was not written ({error}); repair the cause and run the same command again"
            self.say(line)
            raise CheckpointNotWritten(line) from error

    def _drain(self) -> None:
        started = time.monotonic()
        # Asked again and again: a collective that waits for a slow disk would pass its time-out and end every rank.
        while collectives.broadcast(int(self._still_writing(started))):
            pass
        collectives.run_on_rank0(self.close)
        self.waited_s += time.monotonic() - started
