"""Train stage `dmd` (extended DMD): a teacher and a critic score windows of the student's long rollouts."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from learner.losses.dmd import dmd_gradient, dmd_loss, squared_error
from learner.optimizer import micro_batches
from learner.parallel import collectives
from learner.parallel.shard_files import ShardFiles
from learner.replay import Batch, backward_noise, blockwise_x0, collate, masked_x0
from learner.trained_network import TrainedNetwork
from models.flow_matching import add_noise, guide, warped_sigmas, x0_from_velocity
from models.network_config import StudentConfig
from models.noise import Draw, generator_for, to_device
from models.records import Window
from models.wan.network import Wan

Losses = tuple[Iterator[Tensor], int]
"""Scalars for `Optimizer.step`, one graph at a time, and how many there will be."""


class WindowMeasures(NamedTuple):
    """Measures B windows in a student update."""

    gradient: Tensor
    """[B]: mean size of the DMD gradient."""
    age: Tensor
    """[B]: see `Window.age`."""
    distance: Tensor
    """[B]: relative distance of x0 to the recorded one, NaN where none is recorded."""

    @staticmethod
    def metrics(parts: "Sequence[WindowMeasures]") -> dict[str, float]:
        """Average over all ranks' windows (a collective); distances by age, the price of staleness."""
        measures = collectives.all_gather_columns(parts)
        distances = defaultdict(list)
        for age, distance in zip(measures.age.tolist(), measures.distance.tolist(), strict=True):
            if not math.isnan(distance):
                distances[int(age)].append(distance)
        by_age = {f"replay/distance_age_{age}": sum(d) / len(d) for age, d in sorted(distances.items())}
        gradient, age, _ = torch.stack(measures, dim=1).mean(dim=0).tolist()
        return {"student/dmd_gradient": gradient, "replay/age": age} | by_age


@dataclass(frozen=True)
class MicroBatch:
    """Holds windows of one forward pass, with a source of randomness and a loss weight for each."""

    batch: Batch
    generators: Sequence[torch.Generator]
    weights: Tensor
    """[B]."""
    share: int
    """Windows of this rank in all micro-batches together."""

    def weighted(self, losses: Tensor) -> Tensor:
        """Return the part of `losses` [B] in the mean over the rank's share."""
        return (losses * self.weights).sum() / self.share

    def noise(self) -> Tensor:
        """Draw noise [B K C H W] from the windows' generators."""
        shape = self.batch.latents.shape[1:]
        drawn = torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])
        return to_device(drawn, self.weights.device)


class ScoreDistillation:
    """Computes the losses between student (generator), critic (fake score) and frozen teacher (real score).

    Data rank r of n asks with its own share of the windows: places r * B / n and up of the step's B. The draws for a
    window depend on its place alone, not on the number of ranks or of forward passes.
    """

    def __init__(
        self,
        student: Wan,
        critic: Wan,
        teacher: Wan,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        *,
        replay: str,
        context_gradient: bool,
        noising: str,
        score_levels: Callable[[Tensor], Tensor],
        guidance: float,
        negative_prompt: str,
        micro_batch: int | None,
        seed: int,
    ):
        """Guide the teacher away from `negative_prompt`; replay by the keys of stage dmd.

        `score_levels` turns uniform numbers [B] into the noise levels at which scores are compared.
        """
        self.student, self.critic = student, critic
        self.teacher = teacher.eval().requires_grad_(False)
        self.encode_text, self.shape = encode_text, shape
        self.replay, self.context_gradient, self.noising = replay, context_gradient, noising
        self.score_levels, self.guidance = score_levels, guidance
        self.micro_batch, self.seed = micro_batch, seed
        self.device = next(student.parameters()).device
        self.sigmas = warped_sigmas(shape.timesteps, shape.shift)
        self.unconditional = encode_text([negative_prompt]).to(self.device)

    def critic_losses(self, windows: Sequence[Window], update: int) -> Losses:
        """Return the critic's flow-matching losses on the current student's x0, one per micro-batch."""
        parts, count = self._micro_batches(windows, Draw.CRITIC_UPDATE, update)
        return (self._critic_loss(part) for part in parts), count

    def student_losses(self, windows: Sequence[Window], update: int, measures: list[WindowMeasures]) -> Losses:
        """Return the extended DMD losses (Self-Forcing++, Eq. 2), one per micro-batch; appends to `measures`."""
        parts, count = self._micro_batches(windows, Draw.STUDENT_UPDATE, update)
        return (self._student_loss(part, measures) for part in parts), count

    def _micro_batches(self, windows: Sequence[Window], draw: Draw, update: int) -> tuple[Iterator[MicroBatch], int]:
        """Cut this rank's windows into micro-batches, made one at a time; also returns their number."""
        # Filled up to the longest history of all ranks: sharded networks must make the same passes on each.
        history = collectives.all_reduce_max(max(len(window.context) for window in windows))
        placed = list(zip(collectives.own_places(len(windows) * collectives.data_size()), windows, strict=True))
        cut = list(micro_batches(placed, self.micro_batch))
        parts = (
            MicroBatch(
                collate([window for _, window in part], self.encode_text, self.device, history),
                [generator_for(self.seed, draw, update, place) for place, _ in part],
                to_device(torch.tensor([window.weight for _, window in part], dtype=torch.float64), self.device),
                len(windows),
            )
            for part in cut
        )
        return parts, len(cut)

    def _critic_loss(self, part: MicroBatch) -> Tensor:
        sigma, noise = self._score_draw(part)
        with torch.no_grad():
            x0 = part.batch.with_image_latents(self._x0(part))
        velocity = self.critic(add_noise(x0, noise, sigma), 1000 * sigma, part.batch.text)
        return part.weighted(squared_error(velocity, noise - x0))

    def _student_loss(self, part: MicroBatch, measures: list[WindowMeasures]) -> Tensor:
        batch, (sigma, noise) = part.batch, self._score_draw(part)
        x0 = self._x0(part)
        with torch.no_grad():
            judged = batch.with_image_latents(x0.detach())
            x_t, timestep = add_noise(judged, noise, sigma), 1000 * sigma
            both = torch.cat([batch.text, self.unconditional.expand_as(batch.text)])
            real = guide(*self.teacher(torch.cat([x_t, x_t]), timestep.repeat(2), both).chunk(2), self.guidance)
            fake = self.critic(x_t, timestep, batch.text)
            gradient = dmd_gradient(judged, x0_from_velocity(x_t, real, sigma), x0_from_velocity(x_t, fake, sigma))
            distance = (x0 - batch.latents).flatten(1).norm(dim=1) / batch.latents.flatten(1).norm(dim=1)
        # Only the last denoising step has a recorded x0, and only its recorded input leads there.
        last, recorded = len(self.sigmas) - 1, self.noising == "recorded"
        comparable = torch.tensor([recorded and window.step == last for window in batch.windows])
        ages = torch.tensor([window.age for window in batch.windows], dtype=torch.float64)
        comparable, ages = to_device(comparable, self.device), to_device(ages, self.device)
        size = gradient.abs().flatten(1).mean(dim=1).double()
        measures.append(WindowMeasures(size, ages, distance.double().where(comparable, torch.nan)))
        mask = torch.ones(x0.shape[:2], dtype=torch.float64, device=self.device)
        # Frames behind an image latent, where teachers are wrong. An assigned number would be copied, and waited for.
        mask[:, : self.shape.block_frames].index_fill_(0, batch.image_rows, 0)
        return part.weighted(dmd_loss(x0, gradient, mask))

    def _x0(self, part: MicroBatch) -> Tensor:
        """Compute the current student's x0 of the windows, [B K C H W]."""
        batch = part.batch
        if self.replay == "blockwise":
            return blockwise_x0(self.student, self.shape, batch, self.sigmas)
        levels = torch.tensor(self.sigmas, dtype=torch.float32)
        recorded = to_device(levels[[window.step for window in batch.windows]], self.device)
        steps = [int(torch.randint(len(levels), (), generator=g)) for g in part.generators]
        drawn = to_device(levels[steps], self.device)
        x_t, sigma = backward_noise(self.noising, batch.noisy, recorded, batch.latents, drawn, part.noise())
        return masked_x0(self.student, self.shape, batch, x_t, sigma, self.context_gradient)

    def _score_draw(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """Draw the level [B] and noise [B K C H W] at which scores are compared.

        Call it before any other draw: the values are then the same for every way of replay.
        """
        uniform = torch.stack([torch.rand((), generator=generator) for generator in part.generators])
        return to_device(self.score_levels(uniform), self.device), part.noise()


@dataclass(eq=False)
class DmdLearner:
    """Trains student and critic in turn against a frozen teacher (Self-Forcing++, Alg. 1).

    Every rank calls every method, each update with its own share of the windows.
    """

    student: TrainedNetwork
    critic: TrainedNetwork
    scores: ScoreDistillation
    ema_start: int
    """Update of the student from which it is averaged; until then the average is the student itself."""

    @property
    def step(self) -> int:
        """Count the student's updates."""
        return self.student.updates

    def update_critic(self, windows: Sequence[Window]) -> dict[str, float]:
        """Update the critic by flow matching on the current student's x0 of these windows."""
        return self.critic.optimizer.step(*self.scores.critic_losses(windows, self.critic.updates))

    def update_student(self, windows: Sequence[Window]) -> dict[str, float]:
        """Update the student once by extended DMD (Self-Forcing++, Eq. 2): teacher minus critic, on noised windows."""
        measures: list[WindowMeasures] = []
        metrics = self.student.optimizer.step(*self.scores.student_losses(windows, self.step, measures))
        if self.step > self.ema_start:
            self.student.ema.update(self.student.network)
        else:
            self.student.ema.restart(self.student.network)
        return metrics | WindowMeasures.metrics(measures)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Return everything a resumed run needs; draws are functions of the update counts."""
        counts = {"student": self.student.updates, "critic": self.critic.updates}
        return self.student.state() | self.critic.state(), counts

    def load_state(self, groups: Mapping[str, ShardFiles], state: dict[str, int]) -> None:
        """Read the result of `state`, on any number of ranks. Raises ValueError."""
        self.student.load_state(groups, state["student"])
        self.critic.load_state(groups, state["critic"])
