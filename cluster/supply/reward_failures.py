"""Which rewards fail, and how often: a run that cannot see its rewards must not go on as if it could."""

import math
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from cluster.errors import RunFailed
from models.records import Group
from rewards.reward_config import RewardConfig

SCORES_AT_LEAST = 50
"""Scores of a reward before the share that failed is looked at."""
NONE_AT_LEAST, GROUPS_AT_LEAST = 16, 3
"""Scores of a reward, and groups that they come from, all failed, that are enough to say that it does not work: one
lost process may cost a whole group's."""
LAST_SCORES = 200
"""Scores that the share is taken over: a reward that dies late must stop the run as one that never worked."""


class RewardFails(RunFailed):
    """A reward fails more often than reward.max_failure_rate allows."""


class ScoreBook:
    """Scores asked for and failed, by reward; what a run stops for is the share of the last ones."""

    def __init__(self, config: RewardConfig, state: Iterable[tuple[str, int, int, Iterable[bool]]] = ()):
        """`state` as `state` gave it."""
        self.config = config
        self.failed: Counter[str] = Counter()
        self.groups: Counter[str] = Counter()
        self.last: dict[str, deque[bool]] = {}
        for name, failed, groups, last in state:
            self.failed[name], self.groups[name] = failed, groups
            self.last[name] = deque(map(bool, last), LAST_SCORES)

    def note(self, group: Group) -> None:
        """Count a group's scores. Raises RewardFails, but not for a reward of weight 0, which nothing depends on."""
        for name, scores in group.scores.items():
            missing = [math.isnan(score) for windows in scores for score in windows]
            last = self.last.setdefault(name, deque(maxlen=LAST_SCORES))
            last.extend(missing)
            self.failed[name] += sum(missing)
            self.groups[name] += 1
            share = sum(last) / len(last)
            dead = share == 1 and len(last) >= NONE_AT_LEAST and self.groups[name] >= GROUPS_AT_LEAST
            if self.config.weights.get(name) == 0 or not (dead or len(last) >= SCORES_AT_LEAST):
                continue
            if share > self.config.max_failure_rate:
                raise RewardFails(
                    f"reward {name} failed for {share:.0%} of the last {len(last)} windows (reward.max_failure_rate = "
                    f"{self.config.max_failure_rate}); the lines above say why; checkpoints are good"
                )

    def metrics(self) -> dict[str, Any]:
        """Failed scores since the stage began, by reward."""
        return {f"reward/{name}/failed": self.failed[name] for name in sorted(self.last)}

    def state(self) -> list[tuple[str, int, int, list[bool]]]:
        """For a checkpoint."""
        return [(name, self.failed[name], self.groups[name], list(self.last[name])) for name in sorted(self.last)]
