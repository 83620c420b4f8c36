"""The folder of a run: whose it is, what was asked for, what was measured."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cluster.config.run_config import Config
from cluster.errors import CannotStart, RunFailed
from cluster.runs.provenance import commit
from cluster.runs.stage_folder import StageFolder
from models.atomic_files import write_whole

_HAND_OVER_S = 60.0

_FREE = (
    "cluster", "autoscale", "wandb", "checkpoint", "stage", "debug", "dry_run", "device_name", "ode.shard_mb",
    "text_cache",
    "prompt.url", "prompt.cache", "prompt.parallel", "prompt.retries", "prompt.timeout_s",
    "reward.url", "reward.remote_format", "reward.timeout_s", "reward.retries", "reward.max_failure_rate",
    "scan.over", "scan.along", "scan.seeds", "scan.cpus", "scan.at_once", "scan.every", "scan.keep",
    "scan.first_rung", "scan.timeout_s", "scan.retries",
)  # fmt: skip
"""Keys that do not change what is learnt: the same run may go on with other values."""


class RunFolder:
    """`run_dir`: config.yaml, metrics.jsonl, one folder per stage."""

    def __init__(self, config: Config):
        self.config, self.path = config, Path(config.run_dir)

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage (or of an arm of the demo)."""
        result = "teacher.safetensors" if name == "teacher" else "student.safetensors"
        return StageFolder(self.path / name, result, self.config.checkpoint)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note in made.json how long the block took and which commit ran it.

        A block that is left by an exception is noted too, and a resumed one adds to it; a killed process notes nothing.
        """
        started = time.monotonic()
        try:
            yield
        finally:
            made = self.made()
            before = made.get(name, {"seconds": 0.0, "commits": []})
            commits = dict.fromkeys([*before["commits"], commit()])
            seconds = round(before["seconds"] + time.monotonic() - started, 1)
            made[name] = {"seconds": seconds, "commits": list(commits)}
            write_whole(self.path / "made.json", json.dumps(made, indent=1).encode())

    def made(self) -> dict[str, dict[str, Any]]:
        """By stage: the `seconds` it took and the `commits` that made it."""
        file = self.path / "made.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def next_version(self) -> int:
        """A number for published weights that no version of this run had before, whatever was rolled back or killed."""
        file = self.path / "last_version"
        version = int(file.read_text()) + 1 if file.is_file() else 0
        write_whole(file, str(version).encode())
        return version

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands out of the folder.

        Raises RunFailed if one is at work in it, CannotStart if nothing can be written there (any more).
        """
        try:
            opened = (self.path / ".lock").open("w")
        except OSError as error:
            raise CannotStart(
                f"run_dir={self.path} cannot be written ({error.strerror}); make it so, or give another run_dir"
            ) from error
        with opened as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFailed(f"another command is at work in run_dir={self.path}; wait for it") from error
            yield

    @contextmanager
    def written_alone(self) -> Iterator[None]:
        """For the learner's rank 0: wait until that of a lost driver, or of a lost group, has let go of the folder.

        Raises RunFailed after a minute.
        """
        deadline = time.monotonic() + _HAND_OVER_S
        with (self.path / ".writer").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise RunFailed(
                            f"another learner still writes to run_dir={self.path} after {_HAND_OVER_S:.0f} s; end it"
                        ) from error
                    time.sleep(0.2)
            yield

    def claim(self) -> None:
        """Make the folder this run's, or check that it already is; a folder of another config is refused."""
        wanted = asdict(self.config)
        file = self.path / "config.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"run_dir={self.path} is a file; give the path of a folder")
        if file.exists():
            before = _read(file)
            if key := _first_difference(before, wanted):
                raise ValueError(
                    f"run_dir={self.path} belongs to a run with another {key}; give a new run_dir, or set the key back"
                )
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"run_dir={self.path} is not empty and holds no run; give a new run_dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(file, yaml.safe_dump(wanted, sort_keys=False).encode())
        except OSError as error:
            raise ValueError(
                f"run_dir={self.path} cannot be written ({error.strerror}); give another run_dir"
            ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{file} cannot be read ({type(error).__name__}); restore it, or give a new run_dir"
        ) from error
    if not isinstance(read, dict):
        raise ValueError(f"{file} holds no configuration; restore it, or give a new run_dir")
    return read


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str | None:
    for name in [*new, *(old.keys() - new.keys())]:
        if f"{prefix}{name}" in (*_FREE, "run_dir"):
            continue
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            if found := _first_difference(before, after, f"{prefix}{name}."):
                return found
        elif json.dumps(before) != json.dumps(after):
            return f"{prefix}{name} ({before}, now {after})"
    return None
