"""Manage the folder of a run: its configuration, stages and locks."""

import fcntl
import json
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cluster.config.checkpoint_config import CheckpointConfig
from cluster.config.renamed_keys import with_current_names
from cluster.config.run_config import Config
from cluster.run_errors import CannotStart, RunFailed
from cluster.runs.checkpoints.stage_folder import StageFolder
from models.atomic_files import write_atomic
from models.errors import ConfigError, written
from models.keys import resumable_keys
from models.provenance import commit

_HAND_OVER_S = 150.0
_POLL_S = 0.2
_FIRST_LAYOUT = "25145b3"
"""The last commit that did not write its own name into config.yaml."""
_NO_KEY = object()


class RunFolder:
    """Holds the files of a run: config.yaml, metrics.jsonl, one folder per stage."""

    def __init__(self, run_dir: str | Path):
        self.path = Path(run_dir)

    def stage(self, name: str, checkpoint: CheckpointConfig | None = None) -> StageFolder:
        """Return the folder of a stage, or of an arm of the demo."""
        result = "teacher.safetensors" if name == "teacher" else "student.safetensors"
        return StageFolder(self.path / name, result, checkpoint)

    def evaluation(self, stage: str, step: int) -> Path:
        """Return the folder of the evaluation of a stage's student after `step` updates."""
        return self.path / "evaluation" / stage / f"step_{step:06d}"

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note in made.json the seconds of the block and the commit that ran it.

        A block that raises is noted too, and a resumed one adds to it; a killed process notes nothing.
        """
        started = time.monotonic()
        try:
            yield
        finally:
            times = self.times()
            before = times.get(name, {"seconds": 0.0, "commits": []})
            commits = dict.fromkeys([*before["commits"], commit()])
            seconds = round(before["seconds"] + time.monotonic() - started, 1)
            times[name] = {"seconds": seconds, "commits": list(commits)}
            write_atomic(self.path / "made.json", json.dumps(times, indent=1).encode())

    def times(self) -> dict[str, dict[str, Any]]:
        """Read made.json: `seconds` and `commits`, by stage."""
        file = self.path / "made.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other commands.

        Raises RunFailed if another command holds the lock, CannotStart where nothing can be written.
        """
        with self._taken(".lock", wait_s=0.0, held="another command uses this folder. Fix: wait for it."):
            yield

    @contextmanager
    def written_alone(self) -> Iterator[None]:
        """Lock the folder for the learner's rank 0, after a previous rank 0 of a lost group releases it.

        Raises RunFailed after some minutes: NFS keeps the locks of a lost node for a lease of 90 s. Raises CannotStart
        where nothing can be written or locked: the mount of the rank's node may differ from the driver's.
        """
        held = f"another learner still writes to this folder after {_HAND_OVER_S:.0f} s. Fix: end it."
        with self._taken(".writer", _HAND_OVER_S, held):
            yield

    @contextmanager
    def _taken(self, name: str, wait_s: float, held: str) -> Iterator[None]:
        """Lock a file of the folder within `wait_s`. Raises RunFailed with `held`, or CannotStart."""
        deadline = time.monotonic() + wait_s
        try:
            lock_file = (self.path / name).open("w")
        except OSError as error:
            raise CannotStart(
                f"run_dir={self.path}: the folder cannot be written ({error.strerror}). Fix: give another run_dir."
            ) from error
        with lock_file as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        raise RunFailed(f"run_dir={self.path}: {held}") from error
                    time.sleep(_POLL_S)
                except OSError as error:
                    raise CannotStart(
                        f"run_dir={self.path}: the file system cannot lock files ({error.strerror}). Fix: mount it "
                        "with flock, or give a run_dir elsewhere."
                    ) from error
            yield

    def claim(self, config: Config) -> None:
        """Write config.yaml into a new folder, or compare it. Raises ConfigError for the folder of another run."""
        wanted = asdict(config)
        file = self.path / "config.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError("run_dir", self.path, "a file has this path", "write the path of a folder")
        if file.exists():
            try:
                before = yaml.safe_load(file.read_text())
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                before = type(error).__name__
            if not isinstance(before, dict):
                raise ConfigError(
                    "run_dir", self.path, f"its config.yaml holds no configuration ({before})",
                    "restore that file, or write a new run_dir",
                )  # fmt: skip
            merged = _over(asdict(type(config)()), with_current_names(before))  # a key added since then has its default
            if difference := _first_difference(merged, wanted, set(resumable_keys(config))):
                name, old, new = difference
                if new is _NO_KEY:
                    first = re.match(r"# commit (\w+)", file.read_text())
                    raise ConfigError(
                        "run_dir", self.path, f"its layout is older and has the key {name}",
                        f"resume it with commit {first[1] if first else _FIRST_LAYOUT}, or write a new run_dir",
                    )  # fmt: skip
                raise ConfigError(
                    "run_dir", self.path, f"this run has {name}={written(old)}, not {written(new)}",
                    f"write {name}={written(old)}, or a new run_dir",
                )  # fmt: skip
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise ConfigError("run_dir", self.path, "the folder is not empty and holds no run", "write a new run_dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(file, f"# commit {commit()}\n{yaml.safe_dump(wanted, sort_keys=False)}".encode())
        except OSError as error:
            raise ConfigError(
                "run_dir", self.path, f"the folder cannot be written ({error.strerror})", "write another run_dir"
            ) from error


def _over(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Lay `given` over `defaults`, part by part."""
    parts = {
        name: _over(defaults[name], value)
        for name, value in given.items()
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
    }
    return defaults | given | parts


def _first_difference(
    old: dict[str, Any], new: dict[str, Any], resumable: Collection[str], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """Find the first key that decides what is learnt and has another value: key, old value, new value."""
    for name in [*new, *(old.keys() - new.keys())]:
        if f"{prefix}{name}" in resumable:
            continue
        before, after = old.get(name), new.get(name, _NO_KEY)
        if isinstance(before, dict) and isinstance(after, dict):
            if difference := _first_difference(before, after, resumable, f"{prefix}{name}."):
                return difference
        elif after is _NO_KEY or json.dumps(before, default=str) != json.dumps(after):
            return f"{prefix}{name}", before, after
    return None
