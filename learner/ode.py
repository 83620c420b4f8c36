"""Train stage `ode`: turn the bidirectional teacher's weights into a causal few-step student."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.losses.dmd import squared_error
from learner.trained_network import RegressionLearner
from models.causal import Past, denoise_window
from models.flow_matching import warped_sigmas, x0_from_velocity
from models.network_config import StudentConfig
from models.noise import Draw, generator_for, to_device
from models.records import Trajectory


@dataclass(eq=False)
class OdeInitializer(RegressionLearner):
    """Regresses the student onto teacher trajectories (Self-Forcing++, Eq. 4), teacher-forced.

    Each block starts from the trajectory's state at a level of its own and sees clean earlier blocks through the same
    masked pass that distillation replays windows with.
    """

    encode_text: Callable[[Sequence[str]], Tensor]
    shape: StudentConfig
    batch_size: int
    context_gradient: bool

    def update(self, trajectories: Sequence[Trajectory], arrived: int) -> dict[str, float]:
        """Update on a batch drawn from the first `arrived` trajectories, on every rank; each reads only its share."""
        generator = generator_for(self.seed, Draw.ODE_BATCH, self.step)
        block = self.shape.block_frames
        drawn = torch.randint(arrived, (self.batch_size,), generator=generator).tolist()
        size = (self.batch_size, self.shape.horizon_frames // block)
        levels = torch.randint(len(self.shape.timesteps), size, generator=generator).repeat_interleave(block, 1)
        return self.fit(
            self.batch_size,
            lambda places: self._losses([trajectories[drawn[place]] for place in places], levels[list(places)]),
        )

    def _losses(self, batch: Sequence[Trajectory], steps: Tensor) -> Tensor:
        """Return the losses [B] of trajectories whose frames start at the denoising levels `steps` [B K]."""
        block, frames, device = self.shape.block_frames, torch.arange(steps.shape[1]), self.trained.device
        x_t = torch.stack([one.states[row, frames] for one, row in zip(batch, steps, strict=True)])
        x_t = to_device(x_t, device).float()  # widened on the device: half the bytes travel
        target = to_device(torch.stack([one.latents for one in batch]), device).float()
        levels = torch.tensor(warped_sigmas(self.shape.timesteps, self.shape.shift), dtype=torch.float32)
        sigma = to_device(levels[steps], device)
        student = self.trained.network
        text = student.text_keys_values(to_device(self.encode_text([one.prompt for one in batch]), device))
        zeros = (0,) * len(batch)
        past = Past(target[:, :0], padding=zeros, rows=tuple(range(len(batch))), starts=zeros)
        velocity = denoise_window(
            student, x_t, 1000 * sigma, text, past, target[:, :-block], block, self.shape.context_frames,
            self.context_gradient,
        )  # fmt: skip
        return squared_error(x0_from_velocity(x_t, velocity, sigma), target)
