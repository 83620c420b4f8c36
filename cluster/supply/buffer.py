"""Buffer windows between actors and learner: bounded, in an order drawn at dispatch, each counted once."""

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from cluster.config.buffer_config import BufferConfig
from cluster.run_errors import RunFailed
from models.records import Rollout

Key = tuple[int, int]
"""Rollout id and window index: the identity of a window, the same for every attempt."""

OUTCOMES = ("dispatched", "asked_again", "delivered", "taken", "dropped", "refused", "lost")

MAX_REFILLS = 8
"""Upper limit on drops of one window for its age. Beyond it, rollouts are too slow for the age bound."""


class Sample(Protocol):
    """Declares the fields of a sample that the buffer reads."""

    rollout: int
    attempt: int
    index: int
    role: str
    start: int


S = TypeVar("S", bound=Sample)


class TooOld(RunFailed):
    """Stops a run whose windows repeatedly exceed the age bound."""


def order_of_leaving(samples: Sequence[S], seed: int, first: int) -> list[S]:
    """Shuffle one dispatch's samples into their order of leaving; `first` is the id of its first rollout."""
    return random.Random(f"{seed} {first}").sample(samples, len(samples))


class WindowBuffer:
    """Holds dispatched and waiting samples by role, together at most `config.windows`.

    The order in which samples leave is drawn when their rollouts are dispatched: dispatch by dispatch, shuffled inside
    each. In order of arrival an update would see windows of one position only, because a rollout's early windows come
    first; and no waiting window can be overtaken for ever. Every dispatched sample leaves exactly once:
    taken, or counted as cancelled. A sample dropped for its age moves to the end of the order with the start that
    was drawn for it, so that dropping does not change the distribution of starts.
    """

    def __init__(self, config: BufferConfig, seed: int, windows_per_update: int):
        """Start empty; `windows_per_update` is the number of windows that an update takes, over all roles."""
        self.config, self.seed, self.windows_per_update = config, seed, windows_per_update
        self.order: dict[str, deque[Key]] = defaultdict(deque)
        self.waiting: dict[Key, Sample] = {}
        self.pending: dict[Key, int | None] = {}
        """Attempt that makes each dispatched window; None until a new attempt is requested."""
        self.refills: deque[Key] = deque()
        self.dropped: Counter[Key] = Counter()
        self.missing: dict[tuple[str, int], Key | None] = {}
        """First unfinished sample of the next request at the last check, by role and request size."""
        self.counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    @property
    def depth(self) -> int:
        """Count the samples that wait to be taken."""
        return len(self.waiting)

    @property
    def capacity(self) -> int:
        """Count the samples that may be dispatched or wait.

        With policy `wait` it limits the samples ahead of a new one to `max_age` updates' worth, so that none is too
        old when the learner takes it.
        """
        in_time = self.config.max_age * self.windows_per_update if self.config.policy == "wait" else math.inf
        return int(min(self.config.windows, in_time))

    def has_room(self, rollouts: Sequence[Rollout]) -> bool:
        """Return whether all windows of `rollouts` may be dispatched."""
        windows = self.depth + len(self.pending) + sum(len(rollout.windows) for rollout in rollouts)
        return windows <= self.capacity

    def expect(self, rollouts: Sequence[Rollout]) -> None:
        """Record the windows of rollouts dispatched together. Raises ValueError for a window already expected."""
        plans = [((r.id, plan.index), plan.role) for r in rollouts for plan in r.windows]
        attempts = {(r.id, plan.index): r.attempt for r in rollouts for plan in r.windows}
        if len(attempts) < len(plans) or any(self.holds(*where) for where in attempts):
            raise ValueError(f"rollouts {[rollout.id for rollout in rollouts]} were dispatched twice")
        for where, role in order_of_leaving(plans, self.seed, rollouts[0].id):
            self.order[role].append(where)
        self.pending |= attempts
        self.counts["dispatched"] += len(plans)

    def expect_again(self, rollout: Rollout) -> None:
        """Expect the windows of `rollout` from its next attempt; their places in the order stay."""
        for plan in rollout.windows:
            assert (rollout.id, plan.index) in self.pending, (rollout.id, plan.index)
            self.pending[rollout.id, plan.index] = rollout.attempt
            self.counts["asked_again"] += 1

    def expects(self, rollout: int, index: int, attempt: int) -> bool:
        """Return whether this window of this attempt is still to come."""
        return self.pending.get((rollout, index)) == attempt

    def holds(self, rollout: int, index: int) -> bool:
        """Return whether this window is still to come or waits."""
        return (rollout, index) in self.pending or (rollout, index) in self.waiting

    def put(self, sample: Sample) -> None:
        """Add a delivered sample. Raises ValueError for a sample that is not expected."""
        where = (sample.rollout, sample.index)
        if not self.expects(*where, sample.attempt):
            raise ValueError(f"window {sample.index} of rollout {sample.rollout} was not expected, or came twice")
        del self.pending[where]
        self.waiting[where] = sample
        self.counts["delivered"] += 1

    def complete(self, role: str, n: int) -> bool:
        """Return whether the next `n` samples of a role wait; cheap enough for every delivery."""
        if self.missing.get((role, n)) in self.pending:
            return False
        following = list(islice(self.order[role], n))
        self.missing[role, n] = next((where for where in following if where not in self.waiting), None)
        return len(following) == n and self.missing[role, n] is None

    def take(self, role: str, n: int, age: Callable[[Sample], int]) -> list[Any] | None:
        """Return the next `n` samples of a role, or None while one of them is unfinished.

        Windows carry their age and, with policy `weight`, their weight. Policy `drop` requests windows that are too
        old again (`refills`). Raises TooOld for a window that is too old more than MAX_REFILLS times.
        """
        max_age, policy = self.config.max_age, self.config.policy
        while self.complete(role, n):
            keys = list(islice(self.order[role], n))
            stale = [key for key in keys if policy == "drop" and age(self.waiting[key]) > max_age]
            if not stale:
                break
            self.missing.clear()
            for key in stale:
                self.dropped[key] += 1
                if self.dropped[key] > MAX_REFILLS:
                    raise TooOld(
                        f"window {key[1]} of rollout {key[0]} was older than buffer.max_age = {max_age} updates "
                        f"{self.dropped[key]} times: rollouts take longer than that; raise buffer.max_age"
                    )
                del self.waiting[key]
                self.pending[key] = None
                self.order[role].remove(key)
                self.order[role].append(key)
                self.refills.append(key)
                self.counts["dropped"] += 1
        else:
            return None
        taken = []
        for key in keys:
            self.order[role].popleft()
            self.dropped.pop(key, None)
            sample = self.waiting.pop(key)
            updates = age(sample)
            too_old = max(0, updates - max_age) if policy == "weight" else 0
            taken.append(replace(sample, age=updates, weight=self.config.decay**too_old))
        self.counts["taken"] += n
        return taken

    def put_back(self, samples: Sequence[Sample], lost: Collection[Key]) -> None:
        """Undo a take: `samples` of one role come next again; those in `lost` are made again."""
        self.missing.clear()
        for sample in reversed(samples):
            where = (sample.rollout, sample.index)
            self.order[sample.role].appendleft(where)
            if where in lost:
                self.pending[where] = None
                self.refills.append(where)
                self.counts["delivered"] -= 1
            else:
                self.waiting[where] = sample
        self.counts["taken"] -= len(samples)

    def cancel(self) -> int:
        """Cancel all dispatched and waiting windows at the end of a stage; return their number."""
        self.counts["cancelled"] += len(self.pending) + self.depth
        for held in (self.pending, self.waiting, self.order, self.refills, self.dropped, self.missing):
            held.clear()
        return self.counts["cancelled"]

    def state(self) -> dict[str, Any]:
        """Return counts and order as plain values; the caller saves the samples in `waiting`."""
        return {
            "order": {role: list(keys) for role, keys in self.order.items()},
            "pending": [[*where, attempt] for where, attempt in self.pending.items()],
            "dropped": [[*where, times] for where, times in self.dropped.items()],
            "counts": dict(self.counts),
        }

    def restore(self, state: dict[str, Any], waiting: Iterable[Sample]) -> None:
        """Restore the result of `state`. Pending windows stay pending and must be requested again."""
        self.order.update({role: deque(tuple(w) for w in keys) for role, keys in state["order"].items()})
        self.pending = {(rollout, index): attempt for rollout, index, attempt in state["pending"]}
        self.dropped = Counter({(rollout, index): times for rollout, index, times in state["dropped"]})
        self.counts.update(state["counts"])
        self.waiting = {(sample.rollout, sample.index): sample for sample in waiting}
