"""Which rewards fail, and how often: a run that cannot see its rewards must not go on as if it could."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from cluster.errors import RunFailed
from models.rollout import Group
from rewards.config import RewardConfig

SCORES_AT_LEAST = 50
"""Scores of a reward before the share that failed is looked at."""


class RewardFails(RunFailed):
    """A reward fails more often than reward.max_failure_rate allows."""


class ScoreBook:
    """Scores asked for and failed, by reward."""

    def __init__(self, config: RewardConfig, state: Iterable[tuple[str, int, int]] = ()):
        """`state` as `state` gave it."""
        self.config = config
        self.asked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        for name, asked, failed in state:
            self.asked[name], self.failed[name] = asked, failed

    def note(self, group: Group) -> None:
        """Count a group's scores. Raises RewardFails."""
        for name, scores in group.scores.items():
            flat = [score for windows in scores for score in windows]
            self.asked[name] += len(flat)
            self.failed[name] += sum(map(math.isnan, flat))
            share = self.failed[name] / self.asked[name]
            if self.asked[name] >= SCORES_AT_LEAST and share > self.config.max_failure_rate:
                raise RewardFails(
                    f"reward {name} failed for {share:.0%} of {self.asked[name]} windows (reward.max_failure_rate = "
                    f"{self.config.max_failure_rate}); the log says why, and the last checkpoint is good"
                )

    def metrics(self) -> dict[str, Any]:
        """Failed scores since the stage began, by reward."""
        return {f"reward/{name}/failed": self.failed[name] for name in sorted(self.asked)}

    def state(self) -> list[tuple[str, int, int]]:
        """For a checkpoint."""
        return [(name, self.asked[name], self.failed[name]) for name in sorted(self.asked)]
