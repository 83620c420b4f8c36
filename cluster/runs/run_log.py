"""What a run measures: metrics.jsonl, windows.jsonl, trace.json, Weights & Biases, and the line beside the bar."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.config.run_config import Config
from cluster.runs.cluster_interface import Cluster
from cluster.runs.trace import TraceFile
from cluster.runs.wandb_log import WandbLog

Progress = Callable[[str, int, int, str], None]
"""(what is being done, steps done, steps in all, a short line)."""


_SHOWN = {
    "learner/busy_share": "learner busy {:.0%}",
    "rollout/busy_share": "rollout busy {:.0%}",
    "buffer/depth": "{} windows wait",
}
_REWARD = re.compile("reward/[^/]+/mean")


class RunLog:
    """Called once per update by the loop, in the learner's process (of rank 0)."""

    def __init__(self, config: Config, cluster: Cluster, progress: Progress):
        self.cluster, self.progress = cluster, progress
        self.begun: set[str] = set()
        """Stages of which this command has logged a step."""
        folder = Path(config.run_dir)
        self.metrics_file = (folder / "metrics.jsonl").open("a", buffering=1)
        self.windows_file = (folder / "windows.jsonl").open("a", buffering=1)
        self.trace = TraceFile(folder / "trace.json")
        self.wandb = None if config.wandb.mode == "disabled" else WandbLog(config)

    def __call__(self, stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of `step` (counted from 1) of a stage of `steps`."""
        self.metrics_file.write(json.dumps({"time": time.time(), "stage": stage, "step": step} | metrics) + "\n")
        if taken := self.cluster.ledger():
            self.windows_file.write(json.dumps({"stage": stage, "step": step, "windows": taken}) + "\n")
        self.trace.write(self.cluster.spans())
        if self.wandb is not None:
            self.wandb(stage, step, metrics)
        self.cluster.expose(metrics)
        resumed = f"goes on from step {step - 1}; " if step > 1 and stage not in self.begun else ""
        self.begun.add(stage)
        self.progress(stage, step, steps, resumed + line_of(metrics))

    def close(self) -> None:
        """Flush everything."""
        for file in (self.metrics_file, self.windows_file, self.trace):
            file.close()
        if self.wandb is not None:
            self.wandb.close()


class SilentLog:
    """The log of the other ranks."""

    def __call__(self, stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        """Nothing: rank 0 tells it."""

    def progress(self, stage: str, step: int, steps: int, line: str) -> None:
        """Nothing: rank 0 tells it."""

    def close(self) -> None:
        """Nothing was opened."""


def line_of(metrics: dict[str, Any]) -> str:
    """What a person wants to see at once: losses, who is busy, what waits, what was lost."""
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
