"""Write and read checkpoints: tensors in safetensors, plain values in msgpack, checksums in a manifest.

Every rank writes its own shards; rank 0 adds the rest, and gives the folder its name when all is there.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from learner.parallel.shard_files import OwnShards, ShardFiles
from models.atomic_files import flush
from models.checkpoints.weight_files import Shapes, shape_misfit
from models.errors import ConfigError, StopsRun
from models.fingerprint import file_digest

Say = Callable[[str], None]
"""Takes one line for the user at the terminal."""

_MANIFEST, _STATE, _TENSORS = "manifest.json", "state.msgpack", ".safetensors"
NAME = "step_{:08d}"
"""Folder name of a checkpoint, by its step."""
_PATTERN = re.compile(r"step_\d{8,}")
_FILE = re.compile(r"(.+?)(?:-(\d{5})-of-\d{5})?\.safetensors")


class DamagedCheckpoint(StopsRun, ValueError):
    """Reports a checkpoint, or a folder of them, that differs from its checksums; the message names the file."""


@dataclass(frozen=True)
class Snapshot:
    """Holds the part of one rank in the state of training at one step."""

    step: int
    parts: dict[str, OwnShards]
    """Tensors by file, without its ending: `group`, or `group-00001-of-00002` for the first of two ranks."""
    state: bytes
    """Plain values, as msgpack."""
    mark: int = 0
    """Number that rank 0 drew for this write; remains of another attempt at the same step have another."""

    @staticmethod
    def of(step: int, parts: dict[str, OwnShards], state: dict[str, Any], mark: int = 0) -> "Snapshot":
        """Pack `state`; the tensors are taken as they are, because a second copy of a large learner does not fit.

        Raises TypeError, ValueError or OverflowError for a `state` that msgpack cannot keep and give back.
        """
        packed = msgpack.packb(state)
        # What can be written but not read would be noticed at the resume, when it is too late.
        msgpack.unpackb(packed, strict_map_key=False)
        return Snapshot(step, parts, packed, mark)

    def partial(self, folder: Path) -> Path:
        """Return the folder that all ranks write to until the checkpoint is complete."""
        return folder / f".{NAME.format(self.step)}.{self.mark:x}.partial"

    def write_parts(self, partial: Path) -> dict[str, str]:
        """Write this rank's tensors to the disk; returns the checksum of each file."""
        checksums = {}
        for name, part in self.parts.items():
            path = partial / f"{name}{_TENSORS}"
            part.write(path)
            checksums[path.name] = file_digest(path)
            flush(path)
        return checksums


def write(
    folder: Path,
    snapshot: Snapshot,
    keep: int,
    keep_every: int | None = None,
    of_others: Callable[[Path], dict[str, str]] = lambda partial: {},
) -> Path:
    """Write `folder/step_########` as rank 0; returns its path.

    `of_others` waits for the files of the other ranks and returns their checksums. The folder gets its name when all
    is complete and on the disk, so that a killed process or machine leaves the last good one. Keeps the newest `keep`,
    and each whose step is a multiple of `keep_every`.
    """
    final, partial = folder / NAME.format(snapshot.step), snapshot.partial(folder)
    tidy(folder)
    partial.mkdir(parents=True)
    checksums = snapshot.write_parts(partial)
    (partial / _STATE).write_bytes(snapshot.state)
    checksums |= {_STATE: file_digest(partial / _STATE)} | of_others(partial)
    manifest = {"step": snapshot.step, "sha256": dict(sorted(checksums.items()))}
    (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in (partial / _STATE, partial / _MANIFEST, partial):
        flush(path)
    if final.exists():
        os.replace(final, folder / f".{final.name}.replaced")
    os.replace(partial, final)
    flush(folder)
    for path in paths(folder)[:-keep]:
        if keep_every is not None and step_of(path) % keep_every == 0:
            continue
        os.replace(path, folder / f".{path.name}.removed")  # killed while deleting, it must not look damaged
    tidy(folder)
    return final


def tidy(folder: Path) -> None:
    """Remove the remains of a killed writer; a checkpoint that it was about to replace is put back."""
    for path in folder.glob(".step_*.replaced"):
        final = folder / path.name[1:].removesuffix(".replaced")
        if final.exists():
            shutil.rmtree(path)
        else:
            os.replace(path, final)
    for path in folder.glob(".step_*.removed"):
        shutil.rmtree(path)
    for path in folder.glob(".step_*.partial"):
        aside = path.with_suffix(".removed")
        os.replace(path, aside)  # a rank of a lost attempt, which may still be writing, opens no more files in it
        shutil.rmtree(aside)


def step_of(path: Path) -> int:
    """Read the step of a checkpoint (updates done) from its name."""
    return int(path.name.removeprefix("step_"))


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that it is not found again, and nothing is lost; returns the new path."""
    aside = path.with_name(f".{path.name}.damaged")
    count = 1
    while aside.exists():
        count += 1
        aside = path.with_name(f".{path.name}.damaged-{count}")
    os.replace(path, aside)
    return aside


def verify(path: Path, rank: int = 0, ranks: int = 1) -> None:
    """Read every byte of this rank's share of a checkpoint, by default of all.

    Raises DamagedCheckpoint unless each file is there and has its checksum.
    """
    checksums = _manifest(path)
    owner = {name: int(found[2]) - 1 if (found := _FILE.fullmatch(name)) and found[2] else 0 for name in checksums}
    wanted = {name: checksum for name, checksum in checksums.items() if owner[name] % ranks == rank}
    for name in wanted:
        if not (path / name).is_file():
            raise DamagedCheckpoint(f"checkpoint {path} lacks {name}")
    try:
        with ThreadPoolExecutor() as pool:
            computed = list(pool.map(file_digest, [path / name for name in wanted]))
    except OSError as error:
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read ({error})") from error
    for name, checksum in zip(wanted, computed, strict=True):
        if wanted[name] != checksum:
            raise DamagedCheckpoint(f"checkpoint {path}: {name} is damaged (its checksum does not match)")


def newest_valid(
    folder: Path, steps: Sequence[int] | None = None, check: Callable[[Path], None] = verify
) -> tuple[Path | None, dict[Path, DamagedCheckpoint]]:
    """Find the newest whole checkpoint (None if there are none), and newer damaged ones with the reasons.

    Changes nothing. Looks at `steps`, by default all that are there, with `check`, by default `verify`. Raises
    DamagedCheckpoint if there are checkpoints and none of them is whole.
    """
    damaged: dict[Path, DamagedCheckpoint] = {}
    there = paths(folder) if steps is None else [folder / NAME.format(step) for step in steps]
    for path in reversed(there):
        try:
            check(path)
        except DamagedCheckpoint as error:
            damaged[path] = error
        else:
            return path, damaged
    if not damaged:
        return None, {}
    raise DamagedCheckpoint(
        f"run_dir: no checkpoint in {folder} is whole ({'; '.join(map(str, damaged.values()))}). "
        f"Fix: put one back from a copy, or move {folder} away to begin the stage again."
    )


def read(path: Path) -> tuple[dict[str, ShardFiles], dict[str, Any]]:
    """Open the tensors, by group, of a checkpoint that `verify` has found whole, and read its state.

    Raises ConfigError for a file that is no safetensors file.
    """
    files: dict[str, list[Path]] = {}
    for name in _manifest(path):
        if found := _FILE.fullmatch(name):
            files.setdefault(found[1], []).append(path / name)
    groups = {group: ShardFiles(shards) for group, shards in files.items()}
    return groups, msgpack.unpackb((path / _STATE).read_bytes(), strict_map_key=False)  # histograms: keys are numbers


def check_shapes(path: Path, wanted: Mapping[str, Shapes], groups: Mapping[str, ShardFiles]) -> None:
    """Reject the checkpoint of another model; `wanted` are the shapes of the learner's tensors, by group.

    An empty group is not compared: before their first update optimisers have no state. Raises ConfigError naming the
    first tensors that differ.
    """
    for group in sorted(wanted.keys() | groups.keys()):
        if group in wanted and not wanted[group]:
            continue
        shapes = groups[group].shapes if group in groups else {}
        if difference := shape_misfit(wanted.get(group, {}), shapes):
            raise ConfigError(
                "run_dir", None, f"checkpoint {path} is of another model: its {group} {difference}",
                "set the model's keys back, or write a new run_dir",
            )  # fmt: skip


def _manifest(path: Path) -> dict[str, str]:
    """Read the manifest: the checksum of each file."""
    try:
        checksums = dict(json.loads((path / _MANIFEST).read_text())["sha256"])
        checksums[_STATE]  # every checkpoint has it
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} has no readable {_MANIFEST}") from error
    return checksums


def paths(folder: Path) -> list[Path]:
    """List all checkpoints, whole or not, by ascending step."""
    return sorted((path for path in folder.glob("step_*") if _PATTERN.fullmatch(path.name)), key=step_of)
