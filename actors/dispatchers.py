"""Plan what the actors make: prompts, seeds, and the windows that each rollout must yield."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from actors.drift_tracker import DriftTracker
from actors.prompts import TrainingPrompts
from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from actors.window_law import Priority, draw_start, laws_of_rollout, parse_law, window_starts
from models.network_config import StudentConfig
from models.noise import Draw
from models.records import CRITIC, GRPO, ODE, SENTINEL, STUDENT, GroupPlan, Rollout, WindowPlan


class StudentDispatcher:
    """Plans rollouts of the student. Rollout i is a function of (seed, i): planned again, it is the same.

    Law `priority` is the exception: its starts depend on the drift measured before, too.
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
        """Draw from `seed`; law `priority` reads `drift` at each plan, and is uniform without it."""
        self.student, self.rollout, self.window = student, rollout, window
        self.critic_updates, self.prompts, self.seed = critic_updates, prompts, seed
        self.law, self.drift = parse_law(window.law), drift

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """Plan a batch of rollouts with ids `first`, `first` + 1, ..., dispatched after student update `update`."""
        length, block, last = self.window.frames, self.student.block_frames, len(self.student.timesteps) - 1
        rollouts = []
        for i in range(first, first + self.rollout.batch):
            generator = numpy.random.default_rng([self.seed, Draw.ROLLOUT, i])
            frames = _draw_horizon(self.rollout, length, block, update, generator)
            starts = window_starts(frames, length, block)
            law = self.law
            if self.drift is not None and isinstance(law, Priority):
                law = law.after(self.drift.of_windows(starts, length, block))
            windows = []
            for j, own_law in enumerate(laws_of_rollout(law, self.rollout.windows, generator)):
                turn = (i * self.rollout.windows + j) % (1 + self.critic_updates)
                start = draw_start(own_law, self.window.law, starts, length, self.student.horizon_frames, generator)
                step = last if self.window.gradient_step == "last" else int(generator.integers(last + 1))
                windows.append(WindowPlan(CRITIC if turn else STUDENT, start, step, j))
            rollouts.append(_draw_rollout(i, i, self.prompts, frames, tuple(windows), generator))
        return rollouts


@dataclass(frozen=True)
class SentinelTurns:
    """Orders rollout ids in periods of `videos` sentinel videos, then `between` forked rollouts."""

    prompts: Sequence[str]
    """Held-out prompts of the sentinel videos, in turn."""
    videos: int
    frames: int
    """Length of a sentinel video, in latent frames."""
    between: int


class GroupDispatcher:
    """Plans rollouts that are forked into groups, alternating with the same sentinel videos."""

    def __init__(
        self,
        student: StudentConfig,
        rollout: RolloutConfig,
        law: str,
        group: GroupConfig,
        sentinels: SentinelTurns,
        prompts: Sequence[str],
        seed: int,
        earliest: int = 0,
    ):
        """Forks start by `law` (as window.law), none before frame `earliest`."""
        self.student, self.rollout, self.group, self.sentinels = student, rollout, group, sentinels
        self.prompts, self.seed, self.earliest = prompts, seed, earliest
        self.law_name, self.law = law, parse_law(law)

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """Plan a batch of rollouts with ids `first`, `first` + 1, ...; a batch never mixes sentinels and groups."""
        place = first % (self.sentinels.videos + self.sentinels.between)
        if place < self.sentinels.videos:
            count = min(self.rollout.batch, self.sentinels.videos - place)
            frames, prompts, rollouts = self.sentinels.frames, self.sentinels.prompts, []
            plan = GroupPlan(
                SENTINEL, start=0, step=len(self.student.timesteps) - 1, index=0, members=1, frames=frames,
                transitions=(), shared=(), coarse=1.0, antithetic=False,
            )  # fmt: skip
            for number in range(place, place + count):  # prompt and noise are those that it has in every period
                generator = numpy.random.default_rng([self.seed, Draw.SENTINEL, number])
                prompt, seed = prompts[number % len(prompts)], int(generator.integers(2**62))
                rollouts.append(Rollout(first + number - place, 0, prompt, seed, frames, (plan,)))
            return rollouts
        count = min(self.rollout.batch, self.sentinels.videos + self.sentinels.between - place)
        return [self._forked(first + i, update) for i in range(count)]

    def _forked(self, i: int, update: int) -> Rollout:
        """Plan a rollout, and of each of its forks the start, the trained transition and the shared noise."""
        generator = numpy.random.default_rng([self.seed, Draw.ROLLOUT, i])
        shortest = self.earliest + self.group.frames
        frames = _draw_horizon(self.rollout, shortest, self.student.block_frames, update, generator)
        starts = window_starts(frames, self.group.frames, self.student.block_frames, self.earliest)
        laws = laws_of_rollout(self.law, self.group.forks, generator)
        group, last, plans = self.group, len(self.student.timesteps) - 1, []
        shares = numpy.array(group.transition_shares or [1.0] * last)
        for j, law in enumerate(laws):
            start = draw_start(law, self.law_name, starts, group.frames, self.student.horizon_frames, generator)
            drawn = int(generator.choice(last, p=shares / shares.sum()))
            if group.noise == "fresh":
                shared: tuple[int, ...] = ()
            elif group.noise == "first":
                shared = (0,)
            else:  # all noise but that of the drawn transition, which is the noise of the step that it reaches
                shared = tuple(step for step in range(last + 1) if step != drawn + 1)
            transitions = (drawn,) if group.transitions == "one" else tuple(range(last))
            plans.append(
                GroupPlan(
                    GRPO, start, last, j, group.members, group.frames, transitions, shared, group.coarse,
                    group.antithetic,
                )
            )  # fmt: skip
        period, place = divmod(i, self.sentinels.videos + self.sentinels.between)
        number = period * self.sentinels.between + place - self.sentinels.videos
        return _draw_rollout(i, number, self.prompts, frames, tuple(plans), generator)


@dataclass(frozen=True)
class TeacherDispatcher:
    """Plans trajectories of the teacher, one horizon long, for ODE initialisation."""

    student: StudentConfig
    rollout: RolloutConfig
    numbers: Sequence[int]
    """Ids of the trajectories to make; each is a function of (seed, id)."""
    prompts: Sequence[str]
    seed: int

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """Plan the batch of trajectories from place `first` in `numbers` on; empty behind the last."""
        plans, frames = (WindowPlan(ODE, 0, 0, 0),), self.student.horizon_frames
        return [
            _draw_rollout(
                i, i, self.prompts, frames, plans, numpy.random.default_rng([self.seed, Draw.TRAJECTORY, i])
            )
            for i in self.numbers[first : first + self.rollout.batch]
        ]  # fmt: skip


def _draw_horizon(
    rollout: RolloutConfig, shortest: int, block: int, update: int, generator: numpy.random.Generator
) -> int:
    """Draw the horizon N of one rollout, in latent frames, of at least `shortest`."""
    reached = [frames for first, frames in rollout.curriculum if first <= update]
    longest = reached[-1] if reached else rollout.frames
    if rollout.horizon == "fixed":
        return longest
    return block * int(generator.integers(shortest // block, longest // block + 1))


def _draw_rollout(
    i: int, number: int, prompts: Sequence[str], frames: int, windows: tuple[WindowPlan, ...],
    generator: numpy.random.Generator,
) -> Rollout:  # fmt: skip
    """Draw prompt and seed of rollout `i`, the `number`-th to train on.

    Prompts of a file come once per epoch, those of the tiny world are drawn.
    """
    drawn = prompts[generator.integers(len(prompts))]
    prompt = prompts.prompt(number) if isinstance(prompts, TrainingPrompts) else drawn
    return Rollout(i, 0, prompt, int(generator.integers(2**62)), frames, windows)
