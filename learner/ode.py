"""Stage `ode`: the bidirectional teacher's weights become a causal few-step student."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from learner.losses.dmd import regression_loss
from learner.optimizer import Optimizer, muon
from learner.parallel.micro_batches import micro_batches, own_places
from learner.parallel.sharding import gather_full_state, load_full_state
from learner.stage_config import LearnerConfig, OdeConfig
from models.causal import Past, denoise_window
from models.flow_matching import warped_sigmas, x0_from_velocity
from models.network_config import StudentConfig
from models.noise import Draw, generator_for
from models.records import Trajectory
from models.wan.network import Wan


class OdeInitializer:
    """Regression onto teacher trajectories (Self-Forcing++, Eq. 4), teacher-forced.

    Each block starts from the trajectory's state at a level of its own and sees clean earlier blocks through the same
    masked pass that distillation replays windows with.
    """

    def __init__(
        self,
        student: Wan,
        encode_text: Callable[[Sequence[str]], Tensor],
        shape: StudentConfig,
        config: OdeConfig,
        learner: LearnerConfig,
        seed: int,
    ):
        self.student, self.encode_text, self.shape = student, encode_text, shape
        self.config, self.learner, self.seed = config, learner, seed
        self.device = next(student.parameters()).device
        self.levels = torch.tensor(warped_sigmas(shape.timesteps, shape.shift), dtype=torch.float32)
        optimizers = muon(student, config.lr, config.adamw_lr)
        self.optimizer = Optimizer(
            "ode", student, optimizers, lr_key="ode.lr", grad_clip=1.0, cosine_steps=config.steps
        )

    @property
    def step(self) -> int:
        """Updates done."""
        return self.optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """The student, on rank 0; an empty dict elsewhere (a collective)."""
        return gather_full_state(self.student.state_dict())

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Everything a resumed run needs, the tensors on rank 0 only (a collective)."""
        tensors = {"student": gather_full_state(self.student.state_dict()), "optimizer": self.optimizer.state()}
        return tensors, {"updates": self.step}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Put back what `state` gave, whole on every rank. Raises ValueError."""
        load_full_state(self.student.state_dict(), tensors["student"], "student")
        self.optimizer.load_state(tensors.get("optimizer", {}), state["updates"])

    def update(self, pairs: Sequence[Trajectory], arrived: int) -> dict[str, float]:
        """One update on a batch drawn from the first `arrived` of `pairs`, on every rank; each reads only its share."""
        generator = generator_for(self.seed, Draw.ODE_BATCH, self.step)
        size, block = self.config.batch_size, self.shape.block_frames
        blocks = self.shape.horizon_frames // block
        drawn = torch.randint(arrived, (size,), generator=generator).tolist()
        levels = torch.randint(len(self.levels), (size, blocks), generator=generator).repeat_interleave(block, 1)
        places = own_places(size)
        parts = list(micro_batches(places, self.learner.micro_batch))
        losses = (
            self._losses([pairs[drawn[place]] for place in part], levels[list(part)]).sum() / len(places)
            for part in parts
        )
        return self.optimizer.step(losses, len(parts))

    def _losses(self, batch: Sequence[Trajectory], steps: Tensor) -> Tensor:
        """[B], of trajectories that start each frame from the level in `steps` [B K]."""
        block, frames = self.shape.block_frames, torch.arange(steps.shape[1])
        x_t = torch.stack([pair.states[row, frames] for pair, row in zip(batch, steps, strict=True)])
        x_t = x_t.to(self.device, torch.float32)
        target = torch.stack([pair.latents for pair in batch]).to(self.device, torch.float32)
        sigma = self.levels[steps].to(self.device)
        text = self.student.text_keys_values(self.encode_text([pair.prompt for pair in batch]).to(self.device))
        velocity = denoise_window(
            self.student, x_t, 1000 * sigma, text, Past(target[:, :0], (0,) * len(batch), tuple(range(len(batch)))),
            target[:, :-block], block, self.shape.context_frames,
        )  # fmt: skip
        return regression_loss(x0_from_velocity(x_t, velocity, sigma), target)
