"""A loop of train.py in this process, stopped in the middle as a kill would."""

from collections.abc import Callable
from typing import Any

from cluster.config.run_config import Config
from cluster.inline import InlineCluster


class Interrupted(Exception):
    """As if the process had been killed here."""


def run(loop: Callable, config: Config, until: int | None) -> dict[int, dict[str, Any]]:
    """Metrics by step, of all steps, or of those up to `until`, after which the loop is cut off."""
    metrics = {}

    def log(stage, step, steps, found):
        metrics[step] = found
        if step == until:
            raise Interrupted

    try:
        loop(config, InlineCluster(config.run_dir), log)
    except Interrupted:
        assert until is not None
    return metrics
