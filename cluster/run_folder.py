"""The folder of a run: whose it is, what was asked for, what was measured."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cluster.config import Config
from learner.stage_folder import StageFolder

_FREE = ("cluster", "wandb", "checkpoint_every", "stage")
"""Keys that do not change what is learnt: the same run may go on with other values."""


class RunFolder:
    """`run_dir`: config.yaml, metrics.jsonl, one folder per stage."""

    def __init__(self, config: Config):
        self.config, self.path = config, Path(config.run_dir)

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage (or of an arm of the demo)."""
        return StageFolder(self.path / name, "teacher.safetensors" if name == "teacher" else "student.safetensors")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to seconds.json; a resumed stage adds to what it took before."""
        started = time.monotonic()
        yield
        seconds = self.seconds()
        seconds[name] = round(seconds.get(name, 0) + time.monotonic() - started, 1)
        partial = self.path / ".seconds.partial"
        partial.write_text(json.dumps(seconds, indent=1))
        partial.rename(self.path / "seconds.json")

    def seconds(self) -> dict[str, float]:
        """Seconds that each finished stage took."""
        file = self.path / "seconds.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def claim(self) -> None:
        """Make the folder this run's, or check that it already is; a folder of another config is refused."""
        wanted = asdict(self.config)
        file = self.path / "config.yaml"
        if file.exists():
            key = _first_difference(yaml.safe_load(file.read_text()), wanted)
            if key:
                raise ValueError(
                    f"run_dir={self.path} belongs to a run with another {key}; give a new run_dir, or set the key back"
                )
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"run_dir={self.path} is not empty and holds no run; give a new run_dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(wanted, sort_keys=False))
        except OSError as error:
            raise ValueError(
                f"run_dir={self.path} cannot be written ({error.strerror}); give another run_dir"
            ) from error


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str | None:
    for name in [*new, *(old.keys() - new.keys())]:
        if not prefix and name in (*_FREE, "run_dir"):
            continue
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            if found := _first_difference(before, after, f"{prefix}{name}."):
                return found
        elif json.dumps(before) != json.dumps(after):
            return f"{prefix}{name} ({before}, now {after})"
    return None
