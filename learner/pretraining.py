"""Stage `teacher`: the bidirectional teacher learns the tiny world by flow matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.ema import Ema
from learner.losses.dmd import flow_loss
from learner.optimizer import Optimizer, muon
from learner.parallel.micro_batches import micro_batches, own_places
from learner.parallel.sharding import gather_full_state, load_full_state
from learner.stage_config import LearnerConfig, PretrainConfig
from models.flow_matching import add_noise, shift_sigma
from models.noise import Draw, generator_for
from models.wan.network import Wan
from models.worlds import tiny_world


class Pretrainer:
    """Flow matching on real videos, with some prompts dropped so that guidance has an unconditional branch."""

    def __init__(self, teacher: Wan, config: PretrainConfig, learner: LearnerConfig, horizon_frames: int, seed: int):
        self.teacher, self.config, self.learner = teacher, config, learner
        self.horizon_frames, self.seed = horizon_frames, seed
        self.device = next(teacher.parameters()).device
        self.ema = Ema(teacher, config.ema_decay)
        optimizers = muon(teacher, config.lr, config.adamw_lr)
        self.optimizer = Optimizer(
            "pretrain", teacher, optimizers, lr_key="pretrain.lr", grad_clip=1.0, cosine_steps=config.steps
        )

    @property
    def step(self) -> int:
        """Updates done."""
        return self.optimizer.updates

    def averaged(self) -> dict[str, Tensor]:
        """The averaged teacher, on rank 0; an empty dict elsewhere (a collective)."""
        return gather_full_state(self.teacher.state_dict() | self.ema.averages)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Everything a resumed run needs, the tensors on rank 0 only (a collective)."""
        tensors = {
            "teacher": gather_full_state(self.teacher.state_dict()),
            "ema": gather_full_state(self.ema.averages),
            "optimizer": self.optimizer.state(),
        }
        return tensors, {"updates": self.step}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Put back what `state` gave, whole on every rank. Raises ValueError."""
        load_full_state(self.teacher.state_dict(), tensors["teacher"], "teacher")
        load_full_state(self.ema.averages, tensors["ema"], "ema")
        self.optimizer.load_state(tensors.get("optimizer", {}), state["updates"])

    def update(self) -> dict[str, float]:
        """One update on a fresh batch of videos, each drawn from (seed, update, place in the whole batch)."""
        places = own_places(self.config.batch_size)
        parts = list(micro_batches(places, self.learner.micro_batch))
        losses = (self._losses(part).sum() / len(places) for part in parts)
        metrics = self.optimizer.step(losses, len(parts))
        self.ema.update(self.teacher)
        return metrics

    def _losses(self, places: Sequence[int]) -> Tensor:
        """[B], of the videos at these places."""
        drawn = [self._sample(generator_for(self.seed, Draw.PRETRAINING, self.step, place)) for place in places]
        latents, prompts, sigma, noise = zip(*drawn, strict=True)
        latents, sigma, noise = (torch.stack(tensors).to(self.device) for tensors in (latents, sigma, noise))
        text = tiny_world.encode_text(prompts).to(self.device)
        return flow_loss(self.teacher(add_noise(latents, noise, sigma), 1000 * sigma, text), latents, noise)

    def _sample(self, generator: torch.Generator) -> tuple[Tensor, str, Tensor, Tensor]:
        """Latents [F C H W] of a video, its prompt or, dropped, none, the noise level, and noise."""
        prompt = tiny_world.PROMPTS[int(torch.randint(len(tiny_world.PROMPTS), (), generator=generator))]
        dropped = bool(torch.rand((), generator=generator) < self.config.prompt_drop)
        latents = tiny_world.to_latents(tiny_world.sample_video(prompt, self.horizon_frames, generator)[None])[0]
        sigma = shift_sigma(torch.rand((), generator=generator), self.config.shift)
        return latents, "" if dropped else prompt, sigma, torch.randn(latents.shape, generator=generator)
