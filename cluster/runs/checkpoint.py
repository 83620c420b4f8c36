"""Write and read checkpoints: tensors in safetensors, plain values in msgpack, checksums in a manifest."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.atomic_files import flush
from models.checkpoints.weight_files import Shapes, read_shapes, shape_misfit
from models.errors import ConfigError, StopsRun
from models.fingerprint import file_digest

Say = Callable[[str], None]
"""Takes one line for the user at the terminal."""

_MANIFEST, _STATE, _TENSORS = "manifest.json", "state.msgpack", ".safetensors"
NAME = "step_{:08d}"
"""Folder name of a checkpoint, by its step."""
_PATTERN = re.compile(r"step_\d{8,}")


class DamagedCheckpoint(StopsRun, ValueError):
    """Reports a checkpoint, or a folder of them, that differs from its checksums; the message names the file."""


@dataclass(frozen=True)
class Snapshot:
    """Holds the state of training at one step."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Tensors on the CPU, by group and name, that nothing writes to any more."""
    state: bytes
    """Plain values, as msgpack."""

    @staticmethod
    def of(step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> "Snapshot":
        """Pack `state`; the tensors are taken as they are, because a second copy of a large learner does not fit.

        Raises TypeError, ValueError or OverflowError for a `state` that msgpack cannot keep and give back.
        """
        packed = msgpack.packb(state)
        # What can be written but not read would be noticed at the resume, when it is too late.
        msgpack.unpackb(packed, strict_map_key=False)
        return Snapshot(step, tensors, packed)


def dense_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU such that no two share memory, of which safetensors would write neither."""
    dense = torch.contiguous_format
    return {name: tensor.detach().to("cpu", copy=True, memory_format=dense) for name, tensor in tensors.items()}


def write(folder: Path, snapshot: Snapshot, keep: int, keep_every: int | None = None) -> Path:
    """Write `folder/step_########`; returns its path.

    The folder gets its name when it is complete and on the disk, so that a killed process or machine leaves the last
    good one. Keeps the newest `keep`, and each whose step is a multiple of `keep_every`.
    """
    final = folder / NAME.format(snapshot.step)
    partial = folder / f".{final.name}.partial"
    tidy(folder)
    partial.mkdir(parents=True)
    for name, group in snapshot.tensors.items():
        save_file(group, partial / f"{name}{_TENSORS}")
    (partial / _STATE).write_bytes(snapshot.state)
    checksums = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
    (partial / _MANIFEST).write_text(json.dumps({"step": snapshot.step, "sha256": checksums}, indent=1))
    for path in [*partial.iterdir(), partial]:
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
    for path in [*folder.glob(".step_*.partial"), *folder.glob(".step_*.removed")]:
        shutil.rmtree(path)


def step_of(path: Path) -> int:
    """Read the step of a checkpoint (updates done) from its name."""
    return int(path.name.removeprefix("step_"))


def newest_valid(folder: Path) -> tuple[Path | None, dict[Path, DamagedCheckpoint]]:
    """Find the newest whole checkpoint (None if there are none), and newer damaged ones with the reasons.

    Changes nothing. Raises DamagedCheckpoint if there are checkpoints and none of them is whole.
    """
    damaged: dict[Path, DamagedCheckpoint] = {}
    for path in reversed(paths(folder)):
        try:
            verify(path)
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


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint so that it is not found again, and nothing is lost; returns the new path."""
    aside = path.with_name(f".{path.name}.damaged")
    count = 1
    while aside.exists():
        count += 1
        aside = path.with_name(f".{path.name}.damaged-{count}")
    os.replace(path, aside)
    return aside


def verify(path: Path) -> None:
    """Read every byte of a checkpoint. Raises DamagedCheckpoint unless each file is there and has its checksum."""
    wanted = _manifest(path)
    for name in wanted:
        if not (path / name).is_file():
            raise DamagedCheckpoint(f"checkpoint {path} lacks {name}")
    try:
        with ThreadPoolExecutor() as pool:
            checksums = list(pool.map(file_digest, [path / name for name in wanted]))
    except OSError as error:
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read ({error})") from error
    for name, checksum in zip(wanted, checksums, strict=True):
        if wanted[name] != checksum:
            raise DamagedCheckpoint(f"checkpoint {path}: {name} is damaged (its checksum does not match)")


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Map the tensors, by group, of a checkpoint that `verify` has found whole, and read its state.

    A page of a mapped file is fetched when it is used, once for all ranks of a node.
    """
    tensors = {
        name.removesuffix(_TENSORS): load_file(path / name) for name in _manifest(path) if name.endswith(_TENSORS)
    }
    return tensors, msgpack.unpackb((path / _STATE).read_bytes(), strict_map_key=False)  # histograms: keys are numbers


def check_shapes(path: Path, wanted: Mapping[str, Shapes]) -> None:
    """Reject the checkpoint of another model; `wanted` are the shapes of the learner's tensors, by group.

    An empty group is not compared: before their first update optimisers have no state. Reads headers only. Raises
    ConfigError naming the first tensors that differ.
    """
    groups = {name.removesuffix(_TENSORS): name for name in _manifest(path) if name.endswith(_TENSORS)}
    for group in sorted(wanted.keys() | groups.keys()):
        if group in wanted and not wanted[group]:
            continue
        shapes = read_shapes(path / groups[group], "run_dir") if group in groups else {}
        if difference := shape_misfit(wanted.get(group, {}), shapes):
            raise ConfigError(
                "run_dir", None, f"checkpoint {path} is of another model: its {group} {difference}",
                "set the model's keys back, or write a new run_dir",
            )  # fmt: skip


def _manifest(path: Path) -> dict[str, str]:
    """Read the manifest: the checksum of each file."""
    try:
        return dict(json.loads((path / _MANIFEST).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} has no readable {_MANIFEST}") from error


def paths(folder: Path) -> list[Path]:
    """List all checkpoints, whole or not, by ascending step."""
    return sorted((path for path in folder.glob("step_*") if _PATTERN.fullmatch(path.name)), key=step_of)
