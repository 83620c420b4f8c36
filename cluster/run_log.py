"""What a run measures: metrics.jsonl, Weights & Biases, and the line beside the progress bar."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.config import Config

Progress = Callable[[str, int, int, str], None]
"""(what is being done, steps done, steps in all, a short line)."""


class RunLog:
    """Called once per update by the loop, in the learner's process."""

    def __init__(self, config: Config, progress: Progress):
        self.progress = progress
        self.file = (Path(config.run_dir) / "metrics.jsonl").open("a", buffering=1)
        self.wandb = _start_wandb(config)

    def __call__(self, stage: str, step: int, steps: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of `step` (counted from 1) of a stage of `steps`."""
        self.file.write(json.dumps({"time": time.time(), "stage": stage, "step": step} | metrics) + "\n")
        if self.wandb is not None:
            self.wandb.log({f"{stage}/{name}": value for name, value in metrics.items()} | {f"{stage}/step": step})
        losses = [f"{name.split('/')[0]} {value:.4f}" for name, value in metrics.items() if name.endswith("/loss")]
        self.progress(stage, step, steps, ", ".join(losses))

    def close(self) -> None:
        """Flush everything."""
        self.file.close()
        if self.wandb is not None:
            self.wandb.finish()


def _start_wandb(config: Config) -> Any:
    if config.wandb.mode == "disabled":
        return None
    import wandb  # half a second to import: only where it is used

    return wandb.init(
        project=config.wandb.project, mode=config.wandb.mode, dir=config.run_dir, name=Path(config.run_dir).name,
        settings=wandb.Settings(silent=True),
    )  # fmt: skip
