"""Store teacher trajectories on disk, as safetensors shards and an index; draws read only what they need."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cluster.runs.checkpoints.checkpoint import Say
from cluster.runs.trajectory_index import (
    INDEX,
    Shard,
    TrajectoryEntry,
    TrajectoryIndex,
    TrajectoryOrigin,
    checksum,
    decode,
    encode,
    shard_path,
)
from learner.parallel import collectives
from models.atomic_files import atomic_file, write_atomic
from models.checkpoints.safetensors_files import Stored, write_tensors
from models.errors import StopsRun
from models.records import ODE, Trajectory

_PARTS = "states", "latents"
_CURE = "remove it, and the same command makes its trajectories again; copy another run's (ode.pairs_dir) again"
_REPAIR = "repair the cause and run the same command again"
OWN = "run_dir", "set the key back, remove that folder, or write a new run_dir"
"""The key of a run's own trajectories, and the fix where they are of another origin."""

_log = logging.getLogger(__name__)


class TrajectoriesFailed(StopsRun, ValueError):
    """Reports trajectories of another origin, or an unreadable or unwritten file, with its name and a fix."""


class TrajectoryFolder(Sequence[Trajectory], AbstractContextManager):
    """Indexes trajectories by their place in a fixed order, as far as they have arrived without a gap.

    Each is a `Trajectory` of number `rollout`, in the dtype of the file. Rank 0 writes. Every rank holds those of the
    shard that is not full yet in memory, so that shards may be large and no update waits for one. Use as a
    context: leaving it writes the last shard.
    """

    def __init__(self, path: Path, order: Sequence[int], per_shard: int, find: Callable[[], TrajectoryIndex]):
        """Open the folder for the trajectory numbers of `order`; `find` gives rank 0 its index (a collective).

        A shard holds `per_shard` trajectories.
        """
        self.path, self.order = path, order
        encoded = collectives.run_on_rank0(lambda: encode(find()))
        # Sent, not read again: shared storage may show other nodes an older file.
        index, _ = decode(collectives.broadcast_bytes(encoded or b""))
        self.origin, self.shards = index.origin, dict(index.shards)
        self.entries: dict[int, TrajectoryEntry] = {entry.number: entry for entry in index.entries()}
        """Trajectories on disk, by number."""
        self.unwritten: dict[int, Trajectory] = {}
        self.per_shard = per_shard
        self.arrived = 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.write()

    def __len__(self) -> int:
        """Count trajectories from the first in the order to the one before the first missing one."""
        while self.arrived < len(self.order) and (
            self.order[self.arrived] in self.entries or self.order[self.arrived] in self.unwritten
        ):
            self.arrived += 1
        return self.arrived

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Keep new trajectories, the same on every rank (a collective). Raises TrajectoriesFailed."""
        dtype = getattr(torch, self.origin.dtype)
        for pair in trajectories:
            number = pair.rollout
            assert number not in self.entries and number not in self.unwritten, f"trajectory {number} came twice"
            states, latents = (tensor.to(dtype).contiguous() for tensor in (pair.states, pair.latents))
            self.unwritten[number] = Trajectory(number, 0, 0, ODE, pair.prompt, pair.seed, states, latents)
            if len(self.unwritten) == self.per_shard:
                self.write()

    def write(self) -> None:
        """Write the trajectories not yet on disk, the same on every rank (a collective). Raises TrajectoriesFailed."""
        if not self.unwritten:
            return
        shard, pairs = next(i for i in count() if i not in self.shards), list(self.unwritten.values())
        size = collectives.broadcast(collectives.run_on_rank0(lambda: self._write_shard(shard, pairs)) or 0)
        entries = [
            TrajectoryEntry(pair.rollout, pair.prompt, pair.seed, shard, position, checksum(pair.states, pair.latents))
            for position, pair in enumerate(pairs)
        ]
        self.shards[shard] = Shard(size, tuple(entries))
        collectives.run_on_rank0(lambda: _write_index(self.path, TrajectoryIndex(self.origin, self.shards)))
        self.entries |= {entry.number: entry for entry in entries}
        self.unwritten.clear()

    def __getitem__(self, place: int) -> Trajectory:
        """Read one and compare its checksum; its tensors are mapped from the file. Raises TrajectoriesFailed."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        number = self.order[place]
        if number in self.unwritten:
            return self.unwritten[number]
        entry = self.entries[number]
        file = shard_path(self.path, entry.shard)
        try:
            with safe_open(file, framework="pt") as shard:  # closed after this read: mapped pages count as memory
                states, latents = (shard.get_tensor(f"{entry.position}/{part}") for part in _PARTS)
        except (SafetensorError, OSError) as error:
            raise TrajectoriesFailed(f"{file} cannot be read ({error}). Fix: {_CURE}.") from error
        if checksum(states, latents) != entry.checksum:
            raise TrajectoriesFailed(
                f"{file} is damaged (the checksum of trajectory {number} does not match). Fix: {_CURE}."
            )
        return Trajectory(number, 0, 0, ODE, entry.prompt, entry.seed, states, latents)

    def _write_shard(self, shard: int, pairs: Sequence[Trajectory]) -> int:
        """Write a shard; return the size of its file in bytes."""
        named: dict[str, Tensor] = {}
        for position, pair in enumerate(pairs):
            named |= {f"{position}/{part}": getattr(pair, part) for part in _PARTS}
        planned = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in named.items()}
        file = shard_path(self.path, shard)
        try:
            with atomic_file(file) as partial:
                write_tensors(partial, planned, named.items())
        except OSError as error:
            raise TrajectoriesFailed(f"{file} was not written ({error}). Fix: {_REPAIR}.") from error
        return file.stat().st_size


def find_own(path: Path, origin: TrajectoryOrigin, say: Say = _log.warning) -> TrajectoryIndex:
    """Read the index of a run's own trajectories of `origin`; a new folder gets an empty one.

    Reports and leaves out damaged or missing ones, to be made again. Raises TrajectoriesFailed for another origin.
    """
    if not (path / INDEX).is_file():
        index, complete = TrajectoryIndex(origin, {}), False
    else:
        index, complete = read_index(path, origin, *OWN)
        if not complete:
            say(f"the end of {path / INDEX} is damaged; the trajectories listed there are made again")
    cut = _cut(path, index)
    for number, why in cut.items():
        say(f"{why}; its {len(index.shards[number].pairs)} trajectories are made again")
    index = TrajectoryIndex(origin, {number: shard for number, shard in index.shards.items() if number not in cut})
    if index.shards:
        say(f"{len(list(index.entries()))} trajectories are in {path} already")
    if cut or not complete:  # before a shard is written again under its number: the index must not vouch for that one
        _write_index(path, index)
    return index


def find_given(path: Path, origin: TrajectoryOrigin, needed: Sequence[int], key: str) -> TrajectoryIndex:
    """Read the index of a folder of another run; changes nothing.

    Raises TrajectoriesFailed, naming `key`, for no or a damaged folder, for another origin, and for one that lacks
    `needed` numbers.
    """
    if not (path / INDEX).is_file():
        raise TrajectoriesFailed(f"{key}={path}: it holds no trajectories. Fix: write the folder ode_pairs of a run.")
    index, complete = read_index(path, origin, key, f"set the key back, or write another {key}")
    for why in [*_cut(path, index).values()] + [f"the end of {path / INDEX} is damaged"] * (not complete):
        raise TrajectoriesFailed(f"{key}: {why}. Fix: copy the folder again, or let the run that made it repair it.")
    present = {entry.number for entry in index.entries()}
    if missing := [number for number in needed if number not in present]:
        raise TrajectoriesFailed(
            f"{key}={path}: it lacks {len(missing)} of the {len(needed)} trajectories that this run trains on. "
            "Fix: lower ode.pairs, or let the run that makes them finish."
        )
    return index


def read_index(path: Path, origin: TrajectoryOrigin, key: str, fix: str) -> tuple[TrajectoryIndex, bool]:
    """Read the index of a folder; returns whether that was all of it, too. Changes nothing.

    Raises TrajectoriesFailed, with `key` and `fix`, for no index and for another origin.
    """
    try:
        index, complete = decode((path / INDEX).read_bytes())
    except ValueError as error:
        raise TrajectoriesFailed(f"{key}: {path / INDEX} is no index of trajectories ({error}). Fix: {fix}.") from error
    if difference := index.origin.difference(origin):
        raise TrajectoriesFailed(f"{key}: {path} holds trajectories of {difference}. Fix: {fix}.")
    return index, complete


def _cut(path: Path, index: TrajectoryIndex) -> dict[int, str]:
    """Find shards that are missing or of another size than was written, with the reason. Reads none."""
    faults = {}
    for number, shard in index.shards.items():
        file = shard_path(path, number)
        size = file.stat().st_size if file.is_file() else None
        if size != shard.size:
            faults[number] = f"{file} is " + (
                "missing" if size is None else f"{size} bytes long instead of {shard.size}"
            )
    return faults


def _write_index(path: Path, index: TrajectoryIndex) -> None:
    try:
        write_atomic(path / INDEX, encode(index))
    except OSError as error:
        raise TrajectoriesFailed(f"{path / INDEX} was not written ({error}). Fix: {_REPAIR}.") from error
