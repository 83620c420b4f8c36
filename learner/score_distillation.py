"""Extended DMD as losses: what a teacher and a critic say of windows of the student's own long rollouts."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.lora import merge_lora
from learner.losses.dmd import dmd_gradient, dmd_loss, flow_loss, score_sigmas
from learner.optimizer import Optimizer, adamw
from learner.parallel import collectives
from learner.parallel.micro_batches import micro_batches, own_places
from learner.parallel.sharding import gather_full_state, load_full_state
from learner.replay import Batch, backward_noise, blockwise_x0, collate, masked_x0
from learner.stage_config import DmdConfig, LearnerConfig
from models.flow_matching import add_noise, guide, warped_sigmas, x0_from_velocity
from models.network_config import StudentConfig
from models.noise import Draw, generator_for
from models.records import Window
from models.wan.network import Wan


@dataclass(frozen=True)
class Part:
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


class ScoreDistillation:
    """Student (generator), critic (fake score) and frozen teacher (real score), and the losses between them.

    Every rank asks with its own share of the windows: places r * B / n and up of the step's B. What is drawn for a
    window depends on its place alone, not on the number of ranks or of forward passes.
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
        negative_prompt: str = "",
    ):
        """The teacher's guidance leads away from `negative_prompt`."""
        self.student, self.critic = student, critic
        self.teacher = teacher.eval().requires_grad_(False)
        self.encode_text, self.shape, self.config, self.learner, self.seed = encode_text, shape, config, learner, seed
        self.device = next(student.parameters()).device
        self.sigmas = warped_sigmas(shape.timesteps, shape.shift)
        self.unconditional = encode_text([negative_prompt]).to(self.device)
        own = adamw(critic, config.critic_lr, (config.beta1, config.beta2), config.weight_decay)
        self.critic_optimizer = Optimizer("critic", critic, own, lr_key="dmd.critic_lr", grad_clip=config.grad_clip)

    def update_critic(self, windows: Sequence[Window]) -> dict[str, float]:
        """The critic follows the student: flow matching on x0 that the current student makes of these windows."""
        parts, count = self.parts(windows, Draw.CRITIC_UPDATE, self.critic_optimizer.updates)
        return self.critic_optimizer.step((self._critic_loss(part) for part in parts), count)

    def critic_weights(self) -> dict[str, Tensor]:
        """The critic for another stage to start from, adapters merged, on rank 0; an empty dict elsewhere.

        A collective.
        """
        return merge_lora(gather_full_state(self.critic.state_dict()), self.learner.lora_scale)

    def critic_state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of a checkpoint, by group, on rank 0 (a collective)."""
        return {
            "critic": gather_full_state(self.critic.state_dict()),
            "critic_optimizer": self.critic_optimizer.state(),
        }

    def load_critic(self, tensors: dict[str, dict[str, Tensor]], updates: int) -> None:
        """Put back what `critic_state` gave after so many updates, whole on every rank. Raises ValueError."""
        load_full_state(self.critic.state_dict(), tensors["critic"], "critic")
        self.critic_optimizer.load_state(tensors.get("critic_optimizer", {}), updates)

    def parts(self, windows: Sequence[Window], draw: Draw, update: int) -> tuple[Iterator[Part], int]:
        """This rank's windows as micro-batches, one made at a time, and how many."""
        # Filled up to the longest history of all ranks: sharded networks must make the same passes on each.
        history = collectives.all_reduce_max(max(len(window.context) for window in windows))
        placed = list(zip(own_places(len(windows) * collectives.size()), windows, strict=True))

        def part(chosen: Sequence[tuple[int, Window]]) -> Part:
            return Part(
                collate([w for _, w in chosen], self.encode_text, self.device, history),
                [generator_for(self.seed, draw, update, place) for place, _ in chosen],
                torch.tensor([w.weight for _, w in chosen], dtype=torch.float64, device=self.device),
                len(windows),
            )

        chosen = list(micro_batches(placed, self.learner.micro_batch))
        return (part(one) for one in chosen), len(chosen)

    def _critic_loss(self, part: Part) -> Tensor:
        """The critic's flow matching on x0 that the current student makes of these windows."""
        sigma, noise = self._score_draw(part)
        with torch.no_grad():
            x0 = part.batch.with_image_latents(self._x0(part))
        velocity = self.critic(add_noise(x0, noise, sigma), 1000 * sigma, part.batch.text)
        return part.weighted(flow_loss(velocity, x0, noise))

    def student_loss(self, part: Part, measured: list[Tensor]) -> Tensor:
        """Extended DMD (Self-Forcing++, Eq. 2); also appends the part's `_measures`."""
        sigma, noise = self._score_draw(part)
        x0 = self._x0(part)
        gradient = self._gradient(part.batch.with_image_latents(x0.detach()), sigma, noise, part.batch)
        measured.append(self._measures(part.batch, x0.detach(), gradient))
        return part.weighted(dmd_loss(x0, gradient, part.batch.loss_mask(self.shape.block_frames)))

    def _x0(self, part: Part) -> Tensor:
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

    def _score_draw(self, part: Part) -> tuple[Tensor, Tensor]:
        """Level [B] and noise [B K C H W] at which scores are compared; drawn first, so the same for any replay."""
        c = self.config
        uniform = torch.stack([torch.rand((), generator=generator) for generator in part.generators])
        sigma = score_sigmas(uniform, c.score_shift, c.score_min, c.score_max)
        return sigma.to(self.device), self._noise(part)

    def _noise(self, part: Part) -> Tensor:
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


def metrics_by_age(measures: Tensor) -> dict[str, float]:
    """Metrics of all ranks' windows, [B 3] of `_measures`: what staleness costs, by age."""
    distances = defaultdict(list)
    for _, age, distance in measures.tolist():
        if not math.isnan(distance):
            distances[int(age)].append(distance)
    metrics = {f"replay/distance_age_{age}": sum(d) / len(d) for age, d in sorted(distances.items())}
    gradient, age, _ = measures.mean(dim=0).tolist()
    return {"student/dmd_gradient": gradient, "replay/age": age} | metrics
