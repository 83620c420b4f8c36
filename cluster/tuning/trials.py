"""Describe a trial of a scan and its folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config.run_config import Config
from models.atomic_files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

Loop = Callable[..., None]
"""`train.dmd`: (config, cluster, log)."""


@dataclass(frozen=True)
class Trial:
    """Combines values with one seed; its folder is an ordinary run folder."""

    arm: str
    """Its values in words; trials that differ in the seed only share it."""
    values: dict[str, Any]
    """Values by scanned key."""
    config: Config

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.config.seed}"

    @cached_property
    def folder(self) -> "TrialFolder":
        return TrialFolder(Path(self.config.run_dir))


class TrialFolder:
    """Holds a scan's additions to a run folder: measurements, then scores and videos, or the stop by ASHA."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def state(self) -> str:
        """Return finished, stopped (by ASHA) or unfinished."""
        if (self.path / "scores.json").is_file():
            return "finished"
        return "stopped" if (self.path / "stopped.json").is_file() else "unfinished"

    @property
    def measurements(self) -> list[dict[str, float]]:
        """Return {step, drift, time} of each measurement, by ascending step."""
        file = self.path / "measurements.json"
        return json.loads(file.read_text()) if file.is_file() else []

    def keep_measurement(self, measured: dict[str, float]) -> None:
        """Add a measurement; it replaces those of its step and later ones, which a resumed trial makes again."""
        kept = [known for known in self.measurements if known["step"] < measured["step"]]
        self._write("measurements.json", [*kept, measured])

    def stop(self, measured: dict[str, float]) -> None:
        """Note that ASHA stopped the trial after this measurement."""
        self._write("stopped.json", measured)

    def keep_scores(self, scores: dict[str, Any], video: "Tensor") -> None:
        """Write `video` [B T 3 H W] in [0, 1], then the scores: they mark the trial as finished."""
        from safetensors.torch import save  # with torch, which takes seconds that mistakes do not wait for

        write_atomic(self.path / "videos.safetensors", save({"video": (video * 255).round().byte()}))
        self._write("scores.json", scores)

    @property
    def scores(self) -> dict[str, Any]:
        """Read the scores of a finished trial: `metrics` by name, one number per horizon; `prompts`; `seconds`.

        `cpu_seconds` is there where the trial was one process.
        """
        return json.loads((self.path / "scores.json").read_text())

    @property
    def video(self) -> "Tensor":
        """Read the video [B T 3 H W] in [0, 1] of a finished trial."""
        from safetensors.torch import load_file

        return load_file(self.path / "videos.safetensors")["video"].float() / 255

    def _write(self, name: str, content: Any) -> None:
        write_atomic(self.path / name, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
