"""Manage the folder of a stage: its checkpoints, written in the background by every rank, and its result."""

import json
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent import futures
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from cluster.config.checkpoint_config import CheckpointConfig
from cluster.runs.checkpoints import checkpoint
from cluster.runs.checkpoints.checkpoint import DamagedCheckpoint, Say, Snapshot
from cluster.runs.checkpoints.rank_files import RankFiles, RankLost
from learner.lora import MergedTensors
from learner.parallel import collectives
from learner.parallel.host_memory import HostMemory
from learner.parallel.shard_files import OwnShards, ShardFiles
from models.atomic_files import atomic_file, flush, partial_of
from models.checkpoints.checksums import UNSEALED, seal_file
from models.checkpoints.safetensors_files import write_tensors
from models.checkpoints.weight_files import verify_weights
from models.errors import ConfigError, StopsRun

LearnerState = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]
"""Tensors by group, and plain values that msgpack keeps (tuples come back as lists)."""
SupplyState = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors of the windows in the buffer, and plain values."""

Result = TypeVar("Result")

_SUPPLY = "supply"
_LINE_EVERY_S = 30.0
_SEEN_S = 90.0
"""Seconds in which a network file system has shown a new folder to all nodes; they keep names for 60."""
_log = logging.getLogger(__name__)


class CheckpointNotWritten(StopsRun):
    """Reports a checkpoint that could not be written; earlier ones are unchanged."""


class Resumable(Protocol):
    """Shows and loads the state of a learner; no method is a collective."""

    def state(self) -> LearnerState:
        """Return the tensors that training goes on to change, on every rank its shards; nothing is copied."""

    def load_state(self, groups: Mapping[str, ShardFiles], state: dict[str, Any]) -> None:
        """Read the result of `state`, on any number of ranks, each its shards."""


class StageFolder(AbstractContextManager):
    """Keeps `<run>/<stage>/`: `checkpoints/step_*`, and the result when the stage is finished.

    Every rank writes its shards; rank 0 writes the rest and chooses. Save, restore and finish are collectives, and a
    failure of any rank stops every rank. Use as a context, or call `close`: a write may be under way.
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
        self.pending: tuple[Path, futures.Future, RankFiles] | None = None
        """Checkpoint that is being written."""
        self.copies: defaultdict[str, HostMemory] = defaultdict(HostMemory)
        """Memory for copies from a GPU, by group; each checkpoint waits for the write of the one before."""
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
        """Save `learner` and the state of its supply as a checkpoint; the files are written in the background.

        Holds copies of this rank's shards, whatever training does next. Waits for the write before, and raises its
        CheckpointNotWritten. The caller evaluates `supply` before any collective of this method begins: a rank that is
        ahead is held by them and cannot take windows of the next step, so that `supply` is that of this step.
        """
        self._drain()
        tensors, state = learner.state()
        assert _SUPPLY not in tensors, f"{_SUPPLY} is no group of a learner"
        rank, ranks, mark = collectives.rank(), collectives.size(), collectives.broadcast(secrets.randbits(32))
        shard = "" if ranks == 1 else f"-{rank + 1:05d}-of-{ranks:05d}"

        def start() -> None:
            parts = {f"{group}{shard}": OwnShards.of(named, self.copies[group]) for group, named in tensors.items()}
            waiting, rest = ({}, {}) if supply is None else supply
            if rank == 0:
                parts[_SUPPLY] = OwnShards.of(waiting)
            snapshot = Snapshot.of(step, parts, {"learner": state, _SUPPLY: rest}, mark)
            path, files = self.checkpoints / checkpoint.NAME.format(step), RankFiles(rank, ranks)
            self.pending = path, self.pool.submit(self._write, path, snapshot, files), files

        collectives.run_on_all(start)
        if not self.config.asynchronous:
            self._drain()

    def restore(self, learner: Resumable) -> SupplyState | None:
        """Load the newest whole checkpoint, the same on every rank, into `learner`; returns the supply's state.

        None where there is no checkpoint. Newer damaged ones are moved aside with a line for the user. Raises
        DamagedCheckpoint if all are damaged, and ValueError for the checkpoint of another model before anything is
        changed.
        """

        def steps() -> list[int]:
            if collectives.size() > 1:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
            checkpoint.tidy(self.checkpoints)
            return [checkpoint.step_of(path) for path in checkpoint.paths(self.checkpoints)]

        there = collectives.broadcast_bytes(json.dumps(collectives.run_on_rank0(steps)).encode())
        self._run_in_thread(partial(self._require_seen, self.checkpoints))
        path, damaged = checkpoint.newest_valid(self.checkpoints, json.loads(there), self._verify_together)
        for bad, error in damaged.items():
            if aside := collectives.run_on_rank0(partial(checkpoint.set_aside, bad)):
                self.say(f"{error}; moved it to {aside.name}, and the stage resumes from {path}")
        if path is None:
            return None

        def load() -> SupplyState:
            groups, state = checkpoint.read(path)
            wanted = {
                group: {name: tuple(tensor.shape) for name, tensor in named.items()}
                for group, named in learner.state()[0].items()
            }
            checkpoint.check_shapes(path, wanted | {_SUPPLY: {}}, groups)
            waiting = groups.pop(_SUPPLY).read()
            learner.load_state(groups, state["learner"])
            return waiting, state[_SUPPLY]

        return self._run_in_thread(load)

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

    def finish(self, weights: MergedTensors, origin: Mapping[str, object], **beside: MergedTensors) -> None:
        """Write the result, whole or not at all, with its origin and a checksum in the header.

        Before it, because it says that the stage is finished, `<name>.safetensors` of every network that goes `beside`.
        """
        self._drain()
        results = {self.path / f"{name}.safetensors": one for name, one in beside.items()} | {self.result: weights}
        for path, one in results.items():
            self._write_result(path, one, UNSEALED | {name: str(value) for name, value in origin.items()})

    def _write_result(self, path: Path, weights: MergedTensors, header: Mapping[str, str]) -> None:
        """Gather one tensor at a time; rank 0 writes it."""
        writes = collectives.rank() == 0
        with ExitStack() as file:

            def write() -> None:
                layers = iter(weights.items())
                try:
                    if writes:
                        write_tensors(file.enter_context(atomic_file(path)), weights.stored, layers, metadata=header)
                finally:
                    for _ in layers:  # all ranks gather the same tensors, also where the disk is full
                        pass

            def seal() -> None:
                if writes:
                    seal_file(partial_of(path), "run_dir")
                    flush(partial_of(path))

            collectives.run_on_all(write)
            self._run_in_thread(seal)
            collectives.run_on_all(file.close)  # no rank goes on before the result has its name

    def close(self) -> None:
        """Wait for this process's write, and raise its CheckpointNotWritten, once.

        No collective: a rank may fail alone.
        """
        started = time.monotonic()
        while self._still_writing(started):
            pass
        if self.pending is not None:
            (_, written, _), self.pending = self.pending, None
            written.result()

    def _still_writing(self, started_s: float) -> bool:
        """Wait some seconds for this process's write; return whether it takes longer, with a line for the user."""
        if self.pending is None or not futures.wait([self.pending[1]], timeout=_LINE_EVERY_S).not_done:
            return False
        waited_s = time.monotonic() - started_s
        if collectives.rank() == 0:  # it waits for all others
            self.say(
                f"checkpoint {self.pending[0]} is still being written; training has waited {waited_s:.0f} s for it"
            )
        return True

    def _write(self, path: Path, snapshot: Snapshot, files: RankFiles) -> None:
        """Write in the thread; a failure is reported at once and raised by the next `close`."""
        try:
            if files.rank:
                files.write(self.checkpoints, snapshot)
            else:
                keep = self.config.keep, self.config.keep_every
                checkpoint.write(self.checkpoints, snapshot, *keep, files.of_others)
        except Exception as error:
            line = f"checkpoint {path} was not written ({error}); repair the cause and run the same command again"
            self.say(line)
            raise (RankLost if isinstance(error, RankLost) else CheckpointNotWritten)(line) from error

    def _drain(self) -> None:
        """Wait for all ranks' writes; a failure of one stops all of them (a collective)."""
        started = time.monotonic()
        # Asked again and again: a collective that waits for a slow disk would pass its time-out and end every rank.
        while collectives.all_reduce_max(int(self._still_writing(started))):
            done = self.pending is not None and self.pending[1].done()
            if collectives.all_reduce_max(int(done and self.pending[1].exception() is not None)) and self.pending:
                self.pending[2].abandoned.set()
        collectives.run_on_all(self.close)
        self.waited_s += time.monotonic() - started

    def _run_in_thread(self, action: Callable[[], Result]) -> Result:
        """Run `action`, which is no collective and may take long, on every rank; a failure stops all (a collective)."""
        running = self.pool.submit(action)
        while collectives.all_reduce_max(len(futures.wait([running], timeout=_LINE_EVERY_S).not_done)):
            pass
        return collectives.run_on_all(running.result)

    def _verify_together(self, path: Path) -> None:
        """Verify a checkpoint, each rank its share. Raises DamagedCheckpoint on every rank if one finds damage."""

        def damage() -> str:
            self._require_seen(path)
            try:
                checkpoint.verify(path, collectives.rank(), collectives.size())
            except DamagedCheckpoint as error:
                return str(error)
            return ""

        if found := [line for line in collectives.all_gather_text(self._run_in_thread(damage)) if line]:
            raise DamagedCheckpoint("; ".join(dict.fromkeys(found)))

    def _require_seen(self, path: Path) -> None:
        """Check that this rank sees a folder of rank 0; a network file system may show it late. Raises ConfigError."""
        started = time.monotonic()
        while collectives.size() > 1 and not path.is_dir():
            if time.monotonic() - started > _SEEN_S:
                raise ConfigError(
                    "run_dir", self.path.parent, f"rank {collectives.rank()} does not see {path}",
                    "write a folder on storage that all nodes share",
                )  # fmt: skip
            time.sleep(_SEEN_S / 100)
            with suppress(OSError):
                list(path.parent.iterdir())
