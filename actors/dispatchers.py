"""What is asked of the actors: prompts, seeds, and the windows that each rollout must yield."""

from collections.abc import Sequence

import numpy

from actors.drift_tracker import DriftTracker
from actors.prompts import TrainingPrompts
from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from actors.window_law import Priority, WindowLaw, draw_start, laws_of_rollout, parse_law, window_starts
from models.network_config import StudentConfig
from models.noise import Draw
from models.records import CRITIC, GRPO, ODE, SENTINEL, STUDENT, GroupPlan, Rollout, WindowPlan
from rewards.sentinels import SentinelConfig


class StudentDispatcher:
    """Rollouts of the student. Everything about rollout i is a function of (seed, i): asking again gives it again.

    But for law `priority`, whose starts are a function of what was measured before, too.
    """

    def __init__(
        self,
        student: StudentConfig,
        rollout: RolloutConfig,
        window: WindowConfig,
        critic_updates: int,
        prompts: Sequence[str],
        seed: int,
        drift: DriftTracker | None = None,
    ):
        """Law `priority` goes by `drift` as it is when a rollout is asked for; without, it is uniform."""
        self.student, self.rollout, self.window = student, rollout, window
        self.critic_updates, self.prompts, self.seed = critic_updates, prompts, seed
        self.law, self.drift = parse_law(window.law), drift

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """The batch of rollouts with ids `first`, `first` + 1, ..., asked for after student update `update`."""
        return [self._rollout(i, update) for i in range(first, first + self.rollout.batch)]

    def _rollout(self, i: int, update: int) -> Rollout:
        generator = numpy.random.default_rng([self.seed, Draw.ROLLOUT, i])
        frames = _horizon(self.rollout, self.window.frames, self.student.block_frames, update, generator)
        starts = window_starts(frames, self.window.frames, self.student.block_frames)
        laws = laws_of_rollout(self._law(starts), self.rollout.windows, generator)
        windows = tuple(self._window(i, j, law, starts, generator) for j, law in enumerate(laws))
        return _video(i, i, self.prompts, frames, windows, generator)

    def _law(self, starts: range) -> WindowLaw:
        if self.drift is None or not isinstance(self.law, Priority):
            return self.law
        return self.law.after(self.drift.of_windows(starts, self.window.frames, self.student.block_frames))

    def _window(self, i: int, j: int, law: WindowLaw, starts: range, generator: numpy.random.Generator) -> WindowPlan:
        turn = (i * self.rollout.windows + j) % (1 + self.critic_updates)
        window, horizon = self.window.frames, self.student.horizon_frames
        start = draw_start(law, self.window.law, starts, window, horizon, generator)
        last = len(self.student.timesteps) - 1
        step = last if self.window.gradient_step == "last" else int(generator.integers(last + 1))
        return WindowPlan(CRITIC if turn else STUDENT, start, step, j)


class GroupDispatcher:
    """Rollouts that are forked, and before every so many of them the same watched prompts for the sentinels.

    Ids run in periods: `sentinel.prompts` videos that are looked at whole, then `between` forked ones.
    """

    def __init__(
        self,
        student: StudentConfig,
        rollout: RolloutConfig,
        window: WindowConfig,
        group: GroupConfig,
        sentinel: SentinelConfig,
        between: int,
        prompts: Sequence[str],
        watched: Sequence[str],
        seed: int,
        earliest: int = 0,
    ):
        """No video is forked before frame `earliest`."""
        self.student, self.rollout, self.window, self.group = student, rollout, window, group
        self.earliest = earliest
        self.sentinel, self.between = sentinel, between
        self.prompts, self.watched, self.seed = prompts, watched, seed
        self.law = parse_law(window.law)

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """The batch of rollouts with ids `first`, `first` + 1, ...; sentinels are never mixed with groups."""
        place = first % (self.sentinel.prompts + self.between)
        if place < self.sentinel.prompts:
            last = first + min(self.rollout.batch, self.sentinel.prompts - place)
            return [self._watched(i, place + i - first) for i in range(first, last)]
        left = self.sentinel.prompts + self.between - place
        return [self._forked(i, update) for i in range(first, first + min(self.rollout.batch, left))]

    def _watched(self, i: int, number: int) -> Rollout:
        """Watched prompt `number`, with the noise that it has every time."""
        generator = numpy.random.default_rng([self.seed, Draw.SENTINEL, number])
        last = len(self.student.timesteps) - 1
        plan = GroupPlan(
            SENTINEL,
            0,
            last,
            0,
            members=1,
            frames=self.sentinel.frames,
            transitions=(),
            shared=(),
            coarse=1.0,
            antithetic=False,
        )
        prompt = self.watched[number % len(self.watched)]
        return Rollout(i, 0, prompt, int(generator.integers(2**62)), self.sentinel.frames, (plan,))

    def _forked(self, i: int, update: int) -> Rollout:
        generator = numpy.random.default_rng([self.seed, Draw.ROLLOUT, i])
        shortest = self.earliest + self.group.frames
        frames = _horizon(self.rollout, shortest, self.student.block_frames, update, generator)
        laws = laws_of_rollout(self.law, self.group.forks, generator)
        plans = tuple(self._fork(j, law, frames, generator) for j, law in enumerate(laws))
        period, place = divmod(i, self.sentinel.prompts + self.between)
        number = period * self.between + place - self.sentinel.prompts
        return _video(i, number, self.prompts, frames, plans, generator)

    def _fork(self, j: int, law: WindowLaw, frames: int, generator: numpy.random.Generator) -> GroupPlan:
        group, last = self.group, len(self.student.timesteps) - 1
        starts = window_starts(frames, group.frames, self.student.block_frames, self.earliest)
        start = draw_start(law, self.window.law, starts, group.frames, self.student.horizon_frames, generator)
        drawn = self._transition(last, generator)
        transitions = (drawn,) if group.transitions == "one" else tuple(range(last))
        shared = {"fresh": (), "first": (0,), "one": tuple(s for s in range(last + 1) if s != drawn + 1)}[group.noise]
        return GroupPlan(
            GRPO, start, last, j, group.members, group.frames, transitions, shared, group.coarse, group.antithetic
        )

    def _transition(self, count: int, generator: numpy.random.Generator) -> int:
        shares = numpy.array(self.group.transition_shares or [1.0] * count)
        return int(generator.choice(count, p=shares / shares.sum()))


class TeacherDispatcher:
    """Trajectories of the teacher, one horizon long, for ODE initialisation."""

    def __init__(
        self,
        student: StudentConfig,
        rollout: RolloutConfig,
        numbers: Sequence[int],
        prompts: Sequence[str],
        seed: int,
    ):
        """`numbers`: ids of the trajectories to make. Everything about one is a function of (seed, id)."""
        self.student, self.rollout, self.numbers = student, rollout, numbers
        self.prompts, self.seed = prompts, seed

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """The batch of trajectories from place `first` in `numbers` on; empty behind the last."""
        return [self._rollout(i) for i in self.numbers[first : first + self.rollout.batch]]

    def _rollout(self, i: int) -> Rollout:
        generator = numpy.random.default_rng([self.seed, Draw.TRAJECTORY, i])
        return _video(i, i, self.prompts, self.student.horizon_frames, (WindowPlan(ODE, 0, 0, 0),), generator)


def _horizon(rollout: RolloutConfig, shortest: int, block: int, update: int, generator: numpy.random.Generator) -> int:
    """The horizon N of one rollout, which holds `shortest` frames."""
    longest = rollout.frames_at(update)
    if rollout.horizon == "fixed":
        return longest
    return block * int(generator.integers(shortest // block, longest // block + 1))


def _video(
    i: int,
    number: int,
    prompts: Sequence[str],
    frames: int,
    windows: tuple[WindowPlan, ...],
    generator: numpy.random.Generator,
) -> Rollout:
    """Rollout `i`, the `number`-th to train on. A file's prompts come once an epoch, the tiny world's are drawn."""
    drawn = prompts[generator.integers(len(prompts))]
    prompt = prompts.prompt(number) if isinstance(prompts, TrainingPrompts) else drawn
    return Rollout(i, 0, prompt, int(generator.integers(2**62)), frames, windows)
