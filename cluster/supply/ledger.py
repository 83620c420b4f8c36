"""Record a stage's published versions, taken windows and missing scores."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cluster.run_errors import RunFailed
from models.records import ODE
from rewards.reward_config import RewardConfig

SCORES_AT_LEAST = 50
"""Number of scores of a reward from which its share of missing ones is checked."""
NONE_AT_LEAST, GROUPS_AT_LEAST = 16, 3
"""Scores of a reward, and groups that they come from, all failed, that show that it does not work.

One lost process may cost a whole group's.
"""
LAST_SCORES = 200
"""Number of last scores in the share of missing ones. So a reward that fails late stops the run, too."""


class VersionHistory:
    """Keeps the student update of each published version.

    After a rollback the versions since the checkpoint are missing, and their numbers are not used again: a window that
    names one of them comes from a timeline that no longer exists.
    """

    def __init__(self, published: Iterable[tuple[int, int]] = ()):
        self.updates = dict(published)

    @property
    def newest(self) -> int | None:
        """Return the last published version."""
        return max(self.updates, default=None)

    @property
    def update(self) -> int:
        """Return the student update that the newest version was made after."""
        return self.updates[self.newest] if self.updates else 0

    def publish(self, version: int, update: int) -> None:
        """Note a new version. Raises ValueError if its number was used before."""
        if self.updates and version <= self.newest:
            raise ValueError(f"version {version} was published after version {self.newest}: numbers only rise")
        self.updates[version] = update

    def age(self, sample: Any) -> int:
        """Return the student updates since the sample's version; 0 for a teacher's trajectory, which has none."""
        return 0 if sample.role == ODE else self.update - self.updates[sample.version]

    def __contains__(self, version: int) -> bool:
        return version in self.updates


class WindowLedger:
    """Counts starts since the beginning of the stage; lists windows and ages since they were last drained."""

    def __init__(self, starts: Iterable[tuple[str, Iterable[tuple[int, int]]]] = ()):
        """Continue from `starts`, as `state` returns them."""
        self.starts = {role: Counter(dict(map(tuple, pairs))) for role, pairs in starts}
        self.taken: list[dict[str, Any]] = []
        self.ages: list[tuple[int, int]] = []
        """(start, age)."""

    def note(self, role: str, taken: Sequence[Any], age: Callable[[Any], int]) -> None:
        """Enter samples that the learner gets. A teacher's trajectory does not age."""
        self.starts.setdefault(role, Counter()).update(sample.start for sample in taken)
        for sample in taken:
            place = {"role": role, "rollout": sample.rollout, "attempt": sample.attempt, "index": sample.index}
            self.taken.append(place | {"start": sample.start, "age": age(sample)})
            if role != ODE:
                self.ages.append((sample.start, age(sample)))

    def withdraw(self, plan: Sequence[Any]) -> None:
        """Remove the samples that were entered last."""
        for sample in plan:
            self.starts[sample.role][sample.start] -= 1
        self.starts = {role: +counts for role, counts in self.starts.items()}
        del self.taken[-len(plan) :]
        del self.ages[-len(plan) :]

    def drain(self) -> list[dict[str, Any]]:
        """Return every window taken since the last call: role, rollout, attempt, index, start and age."""
        taken, self.taken = self.taken, []
        return taken

    def metrics(self) -> dict[str, object]:
        """Return starts of the taken windows, {role: {start: windows}}, and their ages since the last call.

        Ages are given as mean, largest, and mean by start.
        """
        ages, self.ages = sorted(self.ages), []
        starts = {role: dict(sorted(counts.items())) for role, counts in self.starts.items()}
        if not ages:
            return {"buffer/starts": starts}
        by_start: dict[int, list[int]] = {}
        for start, age in ages:
            by_start.setdefault(start, []).append(age)
        return {
            "buffer/starts": starts,
            "buffer/age_mean": sum(age for _, age in ages) / len(ages),
            "buffer/age_max": max(age for _, age in ages),
            "buffer/age_by_start": {start: sum(of_start) / len(of_start) for start, of_start in by_start.items()},
        }

    def state(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return the plain state for a checkpoint."""
        return [(role, sorted(counts.items())) for role, counts in self.starts.items()]


class RewardFails(RunFailed):
    """Stops a run whose reward fails more often than reward.max_failure_rate allows."""


class ScoreLedger:
    """Counts requested and missing scores by reward; the share of the last ones can stop the run."""

    def __init__(self, config: RewardConfig, state: Iterable[tuple[str, int, int, Iterable[bool]]] = ()):
        """Continue from `state`, as `state()` returns it."""
        self.config = config
        self.failed: Counter[str] = Counter()
        self.groups: Counter[str] = Counter()
        self.last: dict[str, deque[bool]] = {}
        for name, failed, groups, last in state:
            self.failed[name], self.groups[name] = failed, groups
            self.last[name] = deque(map(bool, last), LAST_SCORES)

    def note(self, scores: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Count a group's scores, by reward, member and window.

        Raises RewardFails, but not for a reward of weight 0, which nothing depends on.
        """
        for name, of_members in scores.items():
            missing = [math.isnan(score) for windows in of_members for score in windows]
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
        """Count the failed scores since the stage began, by reward."""
        return {f"reward/{name}/failed": self.failed[name] for name in sorted(self.last)}

    def state(self) -> list[tuple[str, int, int, list[bool]]]:
        """Return the plain state for a checkpoint."""
        return [(name, self.failed[name], self.groups[name], list(self.last[name])) for name in sorted(self.last)]
