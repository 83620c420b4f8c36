"""Stage `dmd`: the teacher corrects windows of the student's own long rollouts (extended DMD)."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from learner.config import DmdConfig
from learner.dmd import dmd_gradient, dmd_loss, flow_loss, score_sigmas
from learner.ema import Ema
from learner.optimizer import Optimizer, adamw
from learner.replay import Batch, backward_noise, blockwise_x0, collate, masked_x0
from models.config import StudentConfig
from models.flow import add_noise, guide, warped_sigmas, x0_from_velocity
from models.noise import Draw, generator_for
from models.rollout import Weights, Window
from models.wan import Wan


class Distiller:
    """Student (generator), critic (fake score) and frozen teacher (real score), and the two updates between them."""

    def __init__(
        self,
        student: Wan,
        critic: Wan,
        teacher: Wan,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        config: DmdConfig,
        seed: int,
        rank: int = 0,
    ):
        self.student, self.critic = student, critic
        self.teacher = teacher.eval().requires_grad_(False)
        self.encode_text, self.shape, self.config, self.seed, self.rank = (
            encode_text,
            shape,
            config,
            seed,
            rank,
        )
        self.device = next(student.parameters()).device
        self.sigmas = warped_sigmas(shape.timesteps, shape.shift)
        self.ema = Ema(student, config.ema_decay)
        betas, clip = (config.beta1, config.beta2), config.grad_clip
        of_student = adamw(student, config.student_lr, betas, config.weight_decay)
        of_critic = adamw(critic, config.critic_lr, betas, config.weight_decay)
        self.student_optimizer = Optimizer("student", student, of_student, lr_key="dmd.student_lr", grad_clip=clip)
        self.critic_optimizer = Optimizer("critic", critic, of_critic, lr_key="dmd.critic_lr", grad_clip=clip)
        self.unconditional = encode_text([""]).to(self.device)
        self.version = 0
        """Version of the weights that the student has now: counts student updates, never goes back."""

    @property
    def step(self) -> int:
        """Student updates done."""
        return self.student_optimizer.updates

    def weights(self) -> Weights:
        """What actors roll out: the raw student, never the EMA."""
        return Weights.of(self.version, self.student)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Everything a resumed run needs; random draws are functions of the update counts."""
        tensors = {
            "student": self.student.state_dict(),
            "critic": self.critic.state_dict(),
            "ema": self.ema.module.state_dict(),
            "student_optimizer": self.student_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
        }
        counts = {"student": self.student_optimizer.updates, "critic": self.critic_optimizer.updates}
        return tensors, counts | {"version": self.version}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Put back what `state` gave."""
        self.student.load_state_dict(tensors["student"])
        self.critic.load_state_dict(tensors["critic"])
        self.ema.module.load_state_dict(tensors["ema"])
        self.student_optimizer.load_state(tensors.get("student_optimizer", {}), state["student"])
        self.critic_optimizer.load_state(tensors.get("critic_optimizer", {}), state["critic"])
        self.version = state["version"]

    def update_critic(self, windows: Sequence[Window]) -> dict[str, float]:
        """The critic follows the student: flow matching on x0 that the current student makes of these windows."""
        generator = generator_for(self.seed, Draw.CRITIC_UPDATE, self.critic_optimizer.updates, self.rank)
        batch = collate(windows, self.encode_text, self.shape.block_frames, self.device)
        sigma, noise = self._score_draw(batch, generator)
        with torch.no_grad():
            x0 = self._x0(batch, generator)
        velocity = self.critic(add_noise(x0, noise, sigma), 1000 * sigma, batch.text)
        return self.critic_optimizer.step(flow_loss(velocity, x0, noise))

    def update_student(self, windows: Sequence[Window]) -> dict[str, float]:
        """One extended DMD update (Self-Forcing++, Eq. 2): teacher minus critic, on re-noised windows."""
        generator = generator_for(self.seed, Draw.STUDENT_UPDATE, self.student_optimizer.updates, self.rank)
        batch = collate(windows, self.encode_text, self.shape.block_frames, self.device)
        sigma, noise = self._score_draw(batch, generator)
        x0 = self._x0(batch, generator)
        gradient = self._gradient(x0.detach(), sigma, noise, batch)
        metrics = self.student_optimizer.step(dmd_loss(x0, gradient))
        metrics["student/dmd_gradient"] = gradient.abs().mean().item()
        metrics |= self._distances(windows, batch, x0.detach())
        self.version += 1
        if self.step > self.config.ema_start:
            self.ema.update(self.student)
        else:
            self.ema.restart(self.student)
        return metrics

    def _x0(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The current student's x0 of the windows, [B K C H W]."""
        if self.config.replay == "blockwise":
            return blockwise_x0(self.student, self.shape, batch, self.sigmas)
        levels = torch.tensor(self.sigmas, dtype=torch.float32)
        recorded = levels[[window.step for window in batch.windows]].to(self.device)
        drawn = levels[torch.randint(len(levels), (len(recorded),), generator=generator)].to(self.device)
        noise = self._noise(batch.latents.shape, generator)
        x_t, sigma = backward_noise(self.config.noising, batch.noisy, recorded, batch.latents, drawn, noise)
        return masked_x0(self.student, self.shape, batch, x_t, sigma)

    @torch.no_grad()
    def _gradient(self, x0: Tensor, sigma: Tensor, noise: Tensor, batch: Batch) -> Tensor:
        x_t, timestep = add_noise(x0, noise, sigma), 1000 * sigma
        both = torch.cat([batch.text, self.unconditional.expand_as(batch.text)])
        real = guide(*self.teacher(torch.cat([x_t, x_t]), timestep.repeat(2), both).chunk(2), self.config.guidance)
        fake = self.critic(x_t, timestep, batch.text)
        return dmd_gradient(x0, x0_from_velocity(x_t, real, sigma), x0_from_velocity(x_t, fake, sigma))

    def _score_draw(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Level [B] and noise [B K C H W] at which scores are compared; drawn first, so the same for any replay."""
        c, shape = self.config, batch.latents.shape
        sigma = score_sigmas(torch.rand(shape[0], generator=generator), c.score_shift, c.score_min, c.score_max)
        return sigma.to(self.device), self._noise(shape, generator)

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator).to(self.device)

    def _distances(self, windows: Sequence[Window], batch: Batch, x0: Tensor) -> dict[str, float]:
        """How far the current student's x0 is from the recorded one, by age: what staleness costs.

        Only a recorded last step has a recorded x0 to compare with.
        """
        metrics, by_age = {}, defaultdict(list)
        last = len(self.sigmas) - 1
        distance = (x0 - batch.latents).flatten(1).norm(dim=1) / batch.latents.flatten(1).norm(dim=1)
        for window, value in zip(windows, distance.tolist(), strict=True):
            if window.step == last and self.config.noising == "recorded":
                by_age[self.version - window.version].append(value)
        for age, values in sorted(by_age.items()):
            metrics[f"replay/distance_age_{age}"] = sum(values) / len(values)
        metrics["replay/age"] = sum(self.version - window.version for window in windows) / len(windows)
        return metrics
