"""Checkpoints: whole or absent. Tensors in safetensors, the rest in msgpack, checksums in a manifest."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgpack
from safetensors.torch import load_file, save_file
from torch import Tensor

_MANIFEST = "manifest.json"


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not what was written; the message names the file and the cure."""


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int = 2) -> Path:
    """Write `folder/step_########`; returns its path.

    Written beside its place and renamed when complete, so that a killed process leaves the last good one. The newest
    `keep` stay.
    """
    final = folder / f"step_{step:08d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, group in tensors.items():
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in group.items()},
            partial / f"{name}.safetensors",
        )
    (partial / "state.msgpack").write_bytes(msgpack.packb(state))
    checksums = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
    (partial / _MANIFEST).write_text(json.dumps({"step": step, "sha256": checksums}, indent=1))
    if final.exists():
        replaced = folder / f".{final.name}.replaced"
        os.replace(final, replaced)
        os.replace(partial, final)
        shutil.rmtree(replaced)
    else:
        os.replace(partial, final)
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def newest(folder: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    steps = _steps(folder)
    return steps[-1] if steps else None


def verify(path: Path) -> list[str]:
    """The names of the checkpoint's files. Raises DamagedCheckpoint unless each is there and has its checksum."""
    cure = f"remove {path} to resume from the checkpoint before it"
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        wanted = dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} has no readable {_MANIFEST}; {cure}") from error
    for name, checksum in wanted.items():
        if not (path / name).is_file():
            raise DamagedCheckpoint(f"checkpoint {path} lacks {name}; {cure}")
        if _checksum(path / name) != checksum:
            raise DamagedCheckpoint(f"checkpoint {path}: {name} is damaged (its checksum does not match); {cure}")
    return sorted(wanted)


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by group, and the state. Raises DamagedCheckpoint."""
    names = verify(path)
    tensors = {Path(name).stem: load_file(path / name) for name in names if name.endswith(".safetensors")}
    return tensors, msgpack.unpackb((path / "state.msgpack").read_bytes())


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
