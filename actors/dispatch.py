"""What is asked of the actors: prompts, seeds, and the windows that each rollout must yield."""

from collections.abc import Sequence

import numpy

from actors.config import RolloutConfig, WindowConfig
from actors.window_law import parse_law, window_starts
from models.config import StudentConfig
from models.noise import Draw
from models.rollout import CRITIC, ODE, STUDENT, Rollout, WindowPlan


class StudentDispatcher:
    """Rollouts of the student. Everything about rollout i is a function of (seed, i): asking again gives it again."""

    def __init__(
        self,
        student: StudentConfig,
        rollout: RolloutConfig,
        window: WindowConfig,
        critic_updates: int,
        prompts: Sequence[str],
        seed: int,
    ):
        self.student, self.rollout, self.window = student, rollout, window
        self.critic_updates, self.prompts, self.seed = critic_updates, prompts, seed
        self.law = parse_law(window.law)

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """The batch of rollouts with ids `first`, `first` + 1, ..., asked for after student update `update`."""
        return [self._rollout(i, update) for i in range(first, first + self.rollout.batch)]

    def _rollout(self, i: int, update: int) -> Rollout:
        generator = numpy.random.default_rng([self.seed, Draw.ROLLOUT, i])
        frames = self._frames(update, generator)
        starts = window_starts(frames, self.window.frames, self.student.block_frames)
        windows = tuple(self._window(i, j, starts, generator) for j in range(self.rollout.windows))
        return _video(i, self.prompts, frames, windows, generator)

    def _frames(self, update: int, generator: numpy.random.Generator) -> int:
        """The horizon N of one rollout."""
        longest = self.rollout.frames_at(update)
        if self.rollout.horizon == "fixed":
            return longest
        block = self.student.block_frames
        return block * int(generator.integers(self.window.frames // block, longest // block + 1))

    def _window(self, i: int, j: int, starts: range, generator: numpy.random.Generator) -> WindowPlan:
        turn = (i * self.rollout.windows + j) % (1 + self.critic_updates)
        start = int(self.law(starts, self.window.frames, self.student.horizon_frames, generator))
        if start not in starts:
            raise ValueError(f"window.law={self.window.law} drew start {start}, none of {starts}; change the law")
        last = len(self.student.timesteps) - 1
        step = last if self.window.gradient_step == "last" else int(generator.integers(last + 1))
        return WindowPlan(CRITIC if turn else STUDENT, start, step, j)


class TeacherDispatcher:
    """Trajectories of the teacher, one horizon long, for ODE initialisation."""

    def __init__(self, student: StudentConfig, rollout: RolloutConfig, pairs: int, prompts: Sequence[str], seed: int):
        self.student, self.rollout, self.pairs = student, rollout, pairs
        self.prompts, self.seed = prompts, seed

    def rollouts(self, first: int, update: int = 0) -> list[Rollout]:
        """The batch of trajectories with ids `first`, `first` + 1, ...; empty after the last of `pairs`."""
        return [self._rollout(i) for i in range(first, min(first + self.rollout.batch, self.pairs))]

    def _rollout(self, i: int) -> Rollout:
        generator = numpy.random.default_rng([self.seed, Draw.TRAJECTORY, i])
        return _video(i, self.prompts, self.student.horizon_frames, (WindowPlan(ODE, 0, 0, 0),), generator)


def _video(
    i: int, prompts: Sequence[str], frames: int, windows: tuple[WindowPlan, ...], generator: numpy.random.Generator
) -> Rollout:
    prompt = prompts[generator.integers(len(prompts))]
    return Rollout(i, 0, prompt, int(generator.integers(2**62)), frames, windows)
