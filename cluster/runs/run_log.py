"""Log a run to metrics.jsonl, windows.jsonl, trace.json, Weights & Biases, TensorBoard and the display."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.config.cluster_config import WandbConfig
from cluster.runs.cluster_interface import Cluster
from cluster.runs.run_folder import RunFolder
from cluster.runs.trace import TraceFile
from cluster.runs.wandb_log import WandbLog

Progress = Callable[[str, int, int, str], None]
"""Takes the stage, steps done, steps in all, and a short line."""

_SHOWN = {
    "learner/busy_share": "learner busy {:.0%}",
    "rollout/busy_share": "rollout busy {:.0%}",
    "buffer/depth": "{} windows wait",
}
_REWARD = re.compile("reward/[^/]+/mean")


class RunLog:
    """Records each update of a run; lives in the learner's process, on rank 0."""

    def __init__(
        self, run_dir: str | Path, wandb: WandbConfig, cluster: Cluster, progress: Progress, tensorboard: bool = False
    ):
        self.cluster, self.progress = cluster, progress
        self.begun: set[str] = set()
        """Stages of which this command has logged a step."""
        folder = Path(run_dir)
        self.folder = RunFolder(folder)
        self.metrics_file = (folder / "metrics.jsonl").open("a", buffering=1)
        self.windows_file = (folder / "windows.jsonl").open("a", buffering=1)
        self.trace = TraceFile(folder / "trace.json")
        self.wandb = None if wandb.mode == "disabled" else WandbLog(wandb, folder)
        self.tensorboard = None
        if tensorboard:
            from cluster.runs.tensorboard_log import TensorBoardLog  # PyAV and Pillow, only where they are used

            self.tensorboard = TensorBoardLog(folder / "tensorboard")

    def __call__(self, stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of `step` (counted from 1) of a stage of `steps`."""
        self.metrics_file.write(json.dumps({"time": time.time(), "stage": stage, "step": step} | metrics) + "\n")
        report = self.cluster.report(metrics)
        if report.windows:
            self.windows_file.write(json.dumps({"stage": stage, "step": step, "windows": report.windows}) + "\n")
        self.trace.write(report.spans)
        videos: list[Path] = []
        if (evaluated := metrics.get("evaluation/step")) is not None:
            videos = sorted(self.folder.evaluation(stage, evaluated).glob("*.mp4"))
        if self.wandb is not None:
            self.wandb(stage, step, metrics, videos)
        if self.tensorboard is not None:
            self.tensorboard(stage, step, metrics, videos)
        resumed = f"resumed from step {step - 1}; " if step > 1 and stage not in self.begun else ""
        self.begun.add(stage)
        self.progress(stage, step, steps, resumed + line_of(metrics))

    def close(self) -> None:
        """Flush and close all files."""
        for file in (self.metrics_file, self.windows_file, self.trace.file):
            file.close()
        if self.wandb is not None:
            self.wandb.run.finish()
        if self.tensorboard is not None:
            self.tensorboard.writer.close()


def log_nothing(stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
    """Discard a log entry, on ranks other than 0."""


def line_of(metrics: dict[str, Any]) -> str:
    """Sum up metrics for the display: losses, busy shares, waiting windows, losses of actors."""
    parts = [f"{name.split('/')[0]} {value:.4f}" for name, value in metrics.items() if name.endswith("/loss")]
    parts += [f"{name.split('/')[1]} {value:.3f}" for name, value in metrics.items() if _REWARD.fullmatch(name)]
    if metrics.get("policy/masked"):
        parts.append(f"{metrics['policy/masked']:.0%} without a score")
    debug = {name.removeprefix("debug/"): value for name, value in metrics.items() if name.startswith("debug/")}
    parts += [f"{value:.2f} {name.removesuffix('_per_s')}/s" for name, value in debug.items()]
    for name, shown in _SHOWN.items():
        if name in metrics:
            parts.append(shown.format(metrics[name]))
    if metrics.get("rollout/actors_lost"):
        parts.append(f"{metrics['rollout/actors_lost']} actors lost")
    return ", ".join(parts)
