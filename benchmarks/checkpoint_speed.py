"""Measure how fast a learner's state is written to a run folder and read back, beside plain files of the same bytes.

python -m benchmarks.checkpoint_speed                      half a gigabyte in the system's temporary folder, seconds
python -m benchmarks.checkpoint_speed folder=/shared/runs  on another disk
More keys: megabytes=500, repeats=3.

JSON lines. `write`: from the call that saves to a checkpoint that is complete and on the disk: copies, checksums, one
file for each group. Its limit is one plain file of as many bytes, flushed to the disk too; the two take turns. `held`:
the seconds that training waits in that call; its limit is one copy of the bytes in memory that was written before.
`restore`: finding the newest whole checkpoint, which reads and checks every byte, and loading it. Its limit reads the
same files once. What was just written comes from memory on most machines, and so do both readings here.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import run
from benchmarks.line import print_line
from cluster.runs.checkpoints.stage_folder import StageFolder
from learner.parallel.shard_files import ShardFiles
from models.keys import KeyGroup, key
from models.user_paths import user_path

_GROUPS = ("student", "critic", "ema", "optimizer")
_TENSOR_BYTES = 4 * 2**20
_WARM_UP = 1
_READ_BYTES = 8 * 2**20


@dataclass(kw_only=True)
class CheckpointSpeedOptions(KeyGroup):
    """Describes the state that is saved."""

    megabytes: int = key(500, "size of the learner's state, in megabytes", ge=1)
    repeats: int = key(3, "times that it is saved and restored", ge=1)
    folder: str | None = key(None, "folder on the disk to measure; none: the system's temporary one")


class SavedLearner:
    """Holds tensors as a learner does, and loads them; no network is made."""

    def __init__(self, megabytes: int):
        count = max(1, round(megabytes * 1e6 / len(_GROUPS) / _TENSOR_BYTES))
        self.groups = {
            group: {f"layer.{i}": torch.randn(_TENSOR_BYTES // 4) for i in range(count)} for group in _GROUPS
        }
        self.nbytes = len(_GROUPS) * count * _TENSOR_BYTES

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Return all tensors, by group, and plain values."""
        return self.groups, {"step": 0}

    def load_state(self, groups: Mapping[str, ShardFiles], state: dict[str, Any]) -> None:
        """Read the tensors of `groups` into this learner's own."""
        for group, files in groups.items():
            files.read_into(self.groups[group])


def main(options: CheckpointSpeedOptions) -> None:
    parent = None if options.folder is None else user_path(options.folder, "folder")
    learner = SavedLearner(options.megabytes)
    timed: dict[str, list[float]] = {name: [] for name in ("plain_write", "write", "held", "plain_read", "restore")}
    timed["copy"] = copy_s(learner.nbytes, options.repeats)
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix="checkpoint_speed-") as place,
        StageFolder(Path(place)) as stage,
    ):
        for step in range(_WARM_UP + options.repeats):
            timed["plain_write"].append(_seconds(lambda: write_plain(Path(place, "plain"), learner)))
            began = time.perf_counter()
            timed["held"].append(_seconds(lambda step=step: stage.save(learner, step)))
            stage.close()
            timed["write"].append(time.perf_counter() - began)
            timed["plain_read"].append(_seconds(lambda: read_plain(Path(place, "plain"))))
            timed["restore"].append(_seconds(lambda: stage.restore(learner)))
    settled = {name: values if name == "copy" else values[_WARM_UP:] for name, values in timed.items()}
    print_lines(settled, learner, options.folder)


def print_lines(timed: Mapping[str, list[float]], learner: SavedLearner, folder: str | None) -> None:
    """Print a line per quantity of these seconds, each beside its limit."""
    config = {"megabytes": round(learner.nbytes / 1e6), "groups": len(_GROUPS), "folder": folder or "temporary"}
    rates = {name: [learner.nbytes / 1e6 / s for s in seconds] for name, seconds in timed.items()}
    best = {name: max(values) for name, values in rates.items()}
    device = f"one disk, {os.cpu_count()} CPU cores"
    for name in ("plain_write", "plain_read"):
        print_line(f"checkpoint.{name}", rates[name], "MB/s", device, config)
    print_line("checkpoint.write", rates["write"], "MB/s", device, config, limit=best["plain_write"])
    print_line("checkpoint.restore", rates["restore"], "MB/s", device, config, limit=best["plain_read"])
    print_line("checkpoint.held", timed["held"], "s", device, config, limit=min(timed["copy"]))


def copy_s(nbytes: int, repeats: int) -> list[float]:
    """Time the copy of so many bytes in memory that was written before."""
    source = torch.ones(nbytes, dtype=torch.uint8)
    target = source.clone()
    return [_seconds(lambda: target.copy_(source)) for _ in range(repeats)]


def write_plain(path: Path, learner: SavedLearner) -> None:
    """Write all tensors to one new file, and wait until the disk has them."""
    path.unlink(missing_ok=True)
    with path.open("wb", buffering=0) as file:
        for named in learner.groups.values():
            for tensor in named.values():
                file.write(tensor.numpy())
        os.fsync(file.fileno())


def read_plain(path: Path) -> None:
    """Read a file once, into memory that is used again."""
    chunk = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(chunk):
            pass


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main, __doc__, CheckpointSpeedOptions)
