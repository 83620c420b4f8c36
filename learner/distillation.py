"""Stage `dmd`: the teacher corrects windows of the student's own long rollouts (extended DMD)."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner import ranks
from learner.config import DmdConfig, LearnerConfig
from learner.dmd import dmd_gradient, dmd_loss, flow_loss, score_sigmas
from learner.ema import Ema
from learner.flat_copy import FlatCopy
from learner.lora import merged
from learner.optimizer import Optimizer, adamw
from learner.replay import Batch, backward_noise, blockwise_x0, collate, masked_x0
from learner.sharding import gather, load
from learner.shares import micro_batches, own_places
from models.config import StudentConfig
from models.flow import add_noise, guide, warped_sigmas, x0_from_velocity
from models.noise import Draw, generator_for
from models.rollout import Window
from models.wan import Wan


@dataclass(frozen=True)
class _Part:
    """A micro-batch: windows, a source of randomness for each, and what they count in the loss."""

    batch: Batch
    generators: Sequence[torch.Generator]
    weights: Tensor
    """[B]."""
    share: int
    """Windows of this rank in all parts together."""

    def weighted(self, losses: Tensor) -> Tensor:
        """What `losses` [B] add to the mean over the rank's share."""
        return (losses * self.weights).sum() / self.share


class Distiller:
    """Student (generator), critic (fake score) and frozen teacher (real score), and the two updates between them.

    Every rank calls every method, each `update_` with its own share of the windows: places r * B / n and up of the
    step's B. What is drawn for a window depends on its place alone, not on the number of ranks or of forward passes.
    """

    def __init__(
        self,
        student: Wan,
        critic: Wan,
        teacher: Wan,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        config: DmdConfig,
        learner: LearnerConfig,
        seed: int,
    ):
        self.student, self.critic = student, critic
        self.teacher = teacher.eval().requires_grad_(False)
        self.encode_text, self.shape, self.config, self.learner, self.seed = encode_text, shape, config, learner, seed
        self.device = next(student.parameters()).device
        self.sigmas = warped_sigmas(shape.timesteps, shape.shift)
        self.ema = Ema(student, config.ema_decay)
        self.published = FlatCopy(student.state_dict())
        betas, clip = (config.beta1, config.beta2), config.grad_clip
        of_student = adamw(student, config.student_lr, betas, config.weight_decay)
        of_critic = adamw(critic, config.critic_lr, betas, config.weight_decay)
        self.student_optimizer = Optimizer("student", student, of_student, lr_key="dmd.student_lr", grad_clip=clip)
        self.critic_optimizer = Optimizer("critic", critic, of_critic, lr_key="dmd.critic_lr", grad_clip=clip)
        self.unconditional = encode_text([""]).to(self.device)

    @property
    def step(self) -> int:
        """Student updates done."""
        return self.student_optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """What actors roll out, on rank 0: the raw student, never the EMA; an empty dict elsewhere (a collective).

        The next call overwrites the tensors: who keeps them must copy.
        """
        return merged(self.published.of(self.student.state_dict()), self.learner.lora_scale)

    def averaged(self) -> dict[str, Tensor]:
        """What is evaluated and shipped, on rank 0; an empty dict elsewhere (a collective).

        With LoRA it is the adapters that are averaged, and the averages that are merged.
        """
        return merged(gather(self.student.state_dict() | self.ema.averages), self.learner.lora_scale)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Everything a resumed run needs, the tensors on rank 0 only; draws are functions of the update counts."""
        tensors = {
            "student": gather(self.student.state_dict()),
            "critic": gather(self.critic.state_dict()),
            "ema": gather(self.ema.averages),
            "student_optimizer": self.student_optimizer.state(),
            "critic_optimizer": self.critic_optimizer.state(),
        }
        return tensors, {"student": self.student_optimizer.updates, "critic": self.critic_optimizer.updates}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Put back what `state` gave, whole on every rank, however many there were. Raises ValueError."""
        load(self.student.state_dict(), tensors["student"], "student")
        load(self.critic.state_dict(), tensors["critic"], "critic")
        load(self.ema.averages, tensors["ema"], "ema")
        self.student_optimizer.load_state(tensors.get("student_optimizer", {}), state["student"])
        self.critic_optimizer.load_state(tensors.get("critic_optimizer", {}), state["critic"])

    def update_critic(self, windows: Sequence[Window]) -> dict[str, float]:
        """The critic follows the student: flow matching on x0 that the current student makes of these windows."""
        parts, count = self._parts(windows, Draw.CRITIC_UPDATE, self.critic_optimizer.updates)
        return self.critic_optimizer.step((self._critic_loss(part) for part in parts), count)

    def update_student(self, windows: Sequence[Window]) -> dict[str, float]:
        """One extended DMD update (Self-Forcing++, Eq. 2): teacher minus critic, on re-noised windows."""
        parts, count = self._parts(windows, Draw.STUDENT_UPDATE, self.student_optimizer.updates)
        measured: list[Tensor] = []
        metrics = self.student_optimizer.step((self._student_loss(part, measured) for part in parts), count)
        if self.step > self.config.ema_start:
            self.ema.update(self.student)
        else:
            self.ema.restart(self.student)
        return metrics | _by_age(ranks.joined(torch.cat(measured)))

    def _parts(self, windows: Sequence[Window], draw: Draw, update: int) -> tuple[Iterator[_Part], int]:
        """This rank's windows as micro-batches, one made at a time, and how many."""
        # Filled up to the longest history of all ranks: sharded networks must make the same passes on each.
        history = ranks.largest(max(len(window.context) for window in windows))
        placed = list(zip(own_places(len(windows) * ranks.size()), windows, strict=True))

        def part(chosen: Sequence[tuple[int, Window]]) -> _Part:
            return _Part(
                collate([w for _, w in chosen], self.encode_text, self.shape.block_frames, self.device, history),
                [generator_for(self.seed, draw, update, place) for place, _ in chosen],
                torch.tensor([w.weight for _, w in chosen], dtype=torch.float64, device=self.device),
                len(windows),
            )

        chosen = list(micro_batches(placed, self.learner.micro_batch))
        return (part(one) for one in chosen), len(chosen)

    def _critic_loss(self, part: _Part) -> Tensor:
        sigma, noise = self._score_draw(part)
        with torch.no_grad():
            x0 = self._x0(part)
        velocity = self.critic(add_noise(x0, noise, sigma), 1000 * sigma, part.batch.text)
        return part.weighted(flow_loss(velocity, x0, noise))

    def _student_loss(self, part: _Part, measured: list[Tensor]) -> Tensor:
        """Also appends the part's `_measures`."""
        sigma, noise = self._score_draw(part)
        x0 = self._x0(part)
        gradient = self._gradient(x0.detach(), sigma, noise, part.batch)
        measured.append(self._measures(part.batch, x0.detach(), gradient))
        return part.weighted(dmd_loss(x0, gradient))

    def _x0(self, part: _Part) -> Tensor:
        """The current student's x0 of the windows, [B K C H W]."""
        batch = part.batch
        if self.config.replay == "blockwise":
            return blockwise_x0(self.student, self.shape, batch, self.sigmas)
        levels = torch.tensor(self.sigmas, dtype=torch.float32)
        recorded = levels[[window.step for window in batch.windows]].to(self.device)
        drawn = levels[[int(torch.randint(len(levels), (), generator=g)) for g in part.generators]].to(self.device)
        noise = self._noise(part)
        x_t, sigma = backward_noise(self.config.noising, batch.noisy, recorded, batch.latents, drawn, noise)
        return masked_x0(self.student, self.shape, batch, x_t, sigma)

    @torch.no_grad()
    def _gradient(self, x0: Tensor, sigma: Tensor, noise: Tensor, batch: Batch) -> Tensor:
        x_t, timestep = add_noise(x0, noise, sigma), 1000 * sigma
        both = torch.cat([batch.text, self.unconditional.expand_as(batch.text)])
        real = guide(*self.teacher(torch.cat([x_t, x_t]), timestep.repeat(2), both).chunk(2), self.config.guidance)
        fake = self.critic(x_t, timestep, batch.text)
        return dmd_gradient(x0, x0_from_velocity(x_t, real, sigma), x0_from_velocity(x_t, fake, sigma))

    def _score_draw(self, part: _Part) -> tuple[Tensor, Tensor]:
        """Level [B] and noise [B K C H W] at which scores are compared; drawn first, so the same for any replay."""
        c = self.config
        uniform = torch.stack([torch.rand((), generator=generator) for generator in part.generators])
        sigma = score_sigmas(uniform, c.score_shift, c.score_min, c.score_max)
        return sigma.to(self.device), self._noise(part)

    def _noise(self, part: _Part) -> Tensor:
        shape = part.batch.latents.shape[1:]
        return torch.stack([torch.randn(shape, generator=generator) for generator in part.generators]).to(self.device)

    def _measures(self, batch: Batch, x0: Tensor, gradient: Tensor) -> Tensor:
        """Size of the DMD gradient, age, distance to the recorded x0 (NaN where none is recorded), [B 3].

        Only the last denoising step has a recorded x0, and only its recorded input leads there.
        """
        distance = (x0 - batch.latents).flatten(1).norm(dim=1) / batch.latents.flatten(1).norm(dim=1)
        last = len(self.sigmas) - 1
        comparable = [window.step == last and self.config.noising == "recorded" for window in batch.windows]
        ages = torch.tensor([window.age for window in batch.windows], dtype=torch.float64, device=self.device)
        distance = distance.double().where(torch.tensor(comparable, device=self.device), torch.nan)
        return torch.stack([gradient.abs().flatten(1).mean(dim=1).double(), ages, distance], dim=1)


def _by_age(measures: Tensor) -> dict[str, float]:
    """Metrics of all ranks' windows, [B 3] of `_measures`: what staleness costs, by age."""
    distances = defaultdict(list)
    for _, age, distance in measures.tolist():
        if not math.isnan(distance):
            distances[int(age)].append(distance)
    metrics = {f"replay/distance_age_{age}": sum(d) / len(d) for age, d in sorted(distances.items())}
    gradient, age, _ = measures.mean(dim=0).tolist()
    return {"student/dmd_gradient": gradient, "replay/age": age} | metrics
