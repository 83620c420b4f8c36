"""What a run measures: metrics.jsonl, windows.jsonl, trace.json, Weights & Biases, and the line beside the bar."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.config import Config
from cluster.trace import TraceFile
from cluster.verbs import Cluster

Progress = Callable[[str, int, int, str], None]
"""(what is being done, steps done, steps in all, a short line)."""


class RunLog:
    """Called once per update by the loop, in the learner's process (of rank 0)."""

    def __init__(self, config: Config, cluster: Cluster, progress: Progress):
        self.cluster, self.progress = cluster, progress
        folder = Path(config.run_dir)
        self.metrics_file = (folder / "metrics.jsonl").open("a", buffering=1)
        self.windows_file = (folder / "windows.jsonl").open("a", buffering=1)
        self.trace = TraceFile(folder / "trace.json")
        self.wandb = _start_wandb(config)

    def __call__(self, stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of `step` (counted from 1) of a stage of `steps`."""
        self.metrics_file.write(json.dumps({"time": time.time(), "stage": stage, "step": step} | metrics) + "\n")
        if taken := self.cluster.ledger():
            self.windows_file.write(json.dumps({"stage": stage, "step": step, "windows": taken}) + "\n")
        self.trace.write(self.cluster.spans())
        if self.wandb is not None:
            self.wandb.log({f"{stage}/{name}": value for name, value in metrics.items()} | {f"{stage}/step": step})
        self.progress(stage, step, steps, _line(metrics))

    def close(self) -> None:
        """Flush everything."""
        for file in (self.metrics_file, self.windows_file, self.trace):
            file.close()
        if self.wandb is not None:
            self.wandb.finish()


class SilentLog:
    """The log of the other ranks."""

    def __call__(self, stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        """Nothing: rank 0 tells it."""

    def progress(self, stage: str, step: int, steps: int, line: str) -> None:
        """Nothing: rank 0 tells it."""

    def close(self) -> None:
        """Nothing was opened."""


def _line(metrics: dict[str, Any]) -> str:
    parts = [f"{name.split('/')[0]} {value:.4f}" for name, value in metrics.items() if name.endswith("/loss")]
    shown = (("learner/busy_share", "learner busy"), ("rollout/busy_share", "rollout busy"))
    parts += [f"{title} {metrics[name]:.0%}" for name, title in shown if name in metrics]
    if "buffer/depth" in metrics:
        parts.append(f"{metrics['buffer/depth']} windows wait")
    return ", ".join(parts)


def _start_wandb(config: Config) -> Any:
    if config.wandb.mode == "disabled":
        return None
    import wandb  # half a second to import: only where it is used

    return wandb.init(
        project=config.wandb.project, mode=config.wandb.mode, dir=config.run_dir, name=Path(config.run_dir).name,
        settings=wandb.Settings(silent=True),
    )  # fmt: skip
