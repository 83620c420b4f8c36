"""Detect reward hacking: compare held-out metrics with their first values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from learner.optimizer import Optimizer
from models.errors import StopsRun
from models.records import Group
from rewards.sentinels import SentinelConfig, metric_drops


class SentinelFell(StopsRun):
    """Stops a run whose rewards cost a held-out metric, or whose held-out metrics cannot be measured."""


@dataclass(eq=False)
class SentinelWatch:
    """Compares held-out metrics with their first values; a fall stops the run or lowers the learning rate."""

    config: SentinelConfig
    optimizer: Optimizer
    first: dict[str, float] = field(default_factory=dict)
    """First value of each metric."""
    last_good: int = 0
    """Last round at which no metric had fallen."""

    def check(self, groups: Sequence[Group], rounds: int) -> dict[str, float]:
        """Score the sentinels after `rounds` rounds; `groups` are all of them, on every rank.

        Raises SentinelFell when a metric has never had a score, and, unless sentinel.action lowers the rate, when one
        has fallen by more than sentinel.tolerance.
        """
        now = {}
        for name in self.config.metrics:
            now[name] = float(torch.tensor([group.scores[name] for group in groups], dtype=torch.float64).nanmean())
        measured = {name: value for name, value in now.items() if not math.isnan(value)}
        self.first = measured | self.first
        if unscored := sorted(now.keys() - self.first.keys()):
            raise SentinelFell(
                f"nothing could be scored by {', '.join(unscored)} of sentinel.metrics, the guard over rewards; the "
                "lines above say why: mend it, or leave it out of sentinel.metrics"
            )
        lost = metric_drops(self.first, now, self.config.tolerance)
        if lost and self.config.action == "stop":
            changes = ", ".join(f"{name} from {self.first[name]:.3f} to {now[name]:.3f}" for name in lost)
            raise SentinelFell(
                f"after round {rounds} held-out metrics have fallen by more than sentinel.tolerance = "
                f"{self.config.tolerance}: {changes}. All was well after round {self.last_good}; in a new run_dir "
                "raise grpo.dmd_weight or grpo.kl, or lower grpo.optimizer.lr"
            )
        if lost:
            self.optimizer.lr_scale *= self.config.rate_factor
        else:
            self.last_good = rounds
        scores = {f"sentinel/{name}": value for name, value in measured.items()}
        return scores | {"student/rate": self.optimizer.lr_scale}
