"""What the learner was given: every window by name, where it started, how old it was."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from models.records import Group, Trajectory, Window


class Consumption:
    """Starts are counted from the beginning of the stage; windows and ages since they were last asked for."""

    def __init__(self, starts: Iterable[tuple[str, Iterable[tuple[int, int]]]] = ()):
        """`starts` as `state` gave them."""
        self.starts = {role: Counter(dict(map(tuple, pairs))) for role, pairs in starts}
        self.taken: list[dict[str, Any]] = []
        self.ages: list[tuple[int, int]] = []
        """(start, age)."""

    def note(self, role: str, taken: Sequence[Window | Group | Trajectory], age: Callable[[Any], int]) -> None:
        """The learner gets these samples."""
        self.starts.setdefault(role, Counter()).update(sample.start for sample in taken)
        for sample in taken:
            place = {"role": role, "rollout": sample.rollout, "attempt": sample.attempt, "index": sample.index}
            self.taken.append(place | {"start": sample.start, "age": age(sample)})
            if not isinstance(sample, Trajectory):
                self.ages.append((sample.start, age(sample)))

    def ledger(self) -> list[dict[str, Any]]:
        """Every window taken since this was last asked: role, rollout, attempt, index, start and age."""
        taken, self.taken = self.taken, []
        return taken

    def metrics(self) -> dict[str, object]:
        """Where the taken ones started, {role: {start: windows}}, and the ages since this was last asked."""
        ages, self.ages = self.ages, []
        starts = {role: dict(sorted(counts.items())) for role, counts in self.starts.items()}
        return {"buffer/starts": starts} | ages_of(ages)

    def state(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """For a checkpoint."""
        return [(role, sorted(counts.items())) for role, counts in self.starts.items()]


def ages_of(ages: Sequence[tuple[int, int]]) -> dict[str, object]:
    """How old windows are: mean, largest, and mean by start, from (start, age) of each; nothing without windows."""
    if not ages:
        return {}
    by_start: dict[int, list[int]] = {}
    for start, age in sorted(ages):
        by_start.setdefault(start, []).append(age)
    of_all = [age for _, age in ages]
    return {
        "buffer/age_mean": sum(of_all) / len(of_all),
        "buffer/age_max": max(of_all),
        "buffer/age_by_start": {start: sum(found) / len(found) for start, found in by_start.items()},
    }
