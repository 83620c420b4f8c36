"""Sample trajectories of the teacher, for ODE initialisation."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from models.flow_matching import shift_sigma, warped_sigmas
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.records import ODE, Progress, Rollout, Trajectory
from models.sampler import teacher_states
from models.wan.network import Wan

_CPU = torch.device("cpu")


def solver_sigmas(student_sigmas: Sequence[float], steps: int, shift: float) -> list[float]:
    """Space the levels of the teacher's solver evenly from 1 down, shift them, and add the student's own levels.

    Even steps alone miss those (50 steps at shift 5 pass 940.6, not 937.5), and the student would learn other inputs.
    """
    even = shift_sigma(1 - torch.arange(steps, dtype=torch.float64) / steps, shift).tolist()
    spread = [sigma for sigma in even if all(abs(sigma - own) > 1e-6 for own in student_sigmas)]
    return sorted([*spread, *student_sigmas], reverse=True)


class TeacherActor:
    """Solves the teacher's probability-flow ODE and keeps the states at the student's denoising levels."""

    def __init__(
        self,
        teacher: Wan,
        student: StudentConfig,
        encode_text: Callable[[Sequence[str]], Tensor],
        solver_steps: int,
        guidance: float,
        device: torch.device = _CPU,
        negative_prompt: str = "",
    ):
        """Sample from `teacher`, which is on `device`; `guidance` steers away from `negative_prompt`."""
        self.teacher = teacher
        self.config, self.encode_text, self.guidance = student, encode_text, guidance
        self.device, self.negative_prompt = device, negative_prompt
        self.student_sigmas = warped_sigmas(student.timesteps, student.shift)
        self.sigmas = solver_sigmas(self.student_sigmas, solver_steps, student.shift)

    def windows(self, rollouts: Sequence[Rollout]) -> Iterator[Trajectory | Progress]:
        """Yield `Progress` at each step of the solver, then one trajectory per rollout; all are solved together."""
        shape = (self.config.horizon_frames, *self.config.frame_shape)
        noise = BlockNoise([rollout.seed for rollout in rollouts], shape, self.device).draw(0, 0)
        text = self.encode_text([rollout.prompt for rollout in rollouts]).to(self.device)
        free = self.encode_text([self.negative_prompt]).to(self.device)
        kept = []
        states = teacher_states(self.teacher, text, free, noise, self.sigmas, self.guidance)
        for step, state in enumerate(states):
            if step == len(self.sigmas) or self.sigmas[step] in self.student_sigmas:
                kept.append(state.cpu())
            yield Progress(step, "solver step")
        *levels, ends = kept
        at_levels = torch.stack(levels, dim=1)
        for i, rollout in enumerate(rollouts):
            yield Trajectory(
                rollout.id, rollout.attempt, 0, ODE, rollout.prompt, rollout.seed, at_levels[i], ends[i]
            )  # fmt: skip
