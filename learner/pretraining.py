"""Stage `teacher`: the bidirectional teacher learns the tiny world by flow matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.config import PretrainConfig
from learner.dmd import flow_loss
from learner.ema import Ema
from learner.optimizer import Optimizer, muon
from models import tiny_world
from models.flow import add_noise, shift_sigma
from models.noise import Draw, generator_for
from models.wan import Wan


class Pretrainer:
    """Flow matching on real videos, with some prompts dropped so that guidance has an unconditional branch."""

    def __init__(self, teacher: Wan, config: PretrainConfig, horizon_frames: int, seed: int):
        self.teacher, self.config, self.horizon_frames, self.seed = teacher, config, horizon_frames, seed
        self.ema = Ema(teacher, config.ema_decay)
        optimizers = muon(teacher, config.lr, config.adamw_lr)
        self.optimizer = Optimizer(
            "pretrain", teacher, optimizers, lr_key="pretrain.lr", grad_clip=1.0, cosine_steps=config.steps
        )

    @property
    def step(self) -> int:
        """Updates done."""
        return self.optimizer.updates

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
        """Everything a resumed run needs."""
        tensors = {
            "teacher": self.teacher.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state(),
        }
        return tensors, {"updates": self.step}

    def load_state(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, int]) -> None:
        """Put back what `state` gave."""
        self.teacher.load_state_dict(tensors["teacher"])
        self.ema.module.load_state_dict(tensors["ema"])
        self.optimizer.load_state(tensors.get("optimizer", {}), state["updates"])

    def update(self) -> dict[str, float]:
        """One update on a fresh batch of videos, drawn from (seed, update)."""
        generator = generator_for(self.seed, Draw.PRETRAINING, self.optimizer.updates)
        latents, prompts = self._videos(generator)
        sigma = shift_sigma(torch.rand(len(latents), generator=generator), self.config.shift)
        noise = torch.randn(latents.shape, generator=generator)
        text = tiny_world.encode_text(prompts)
        velocity = self.teacher(add_noise(latents, noise, sigma), 1000 * sigma, text)
        metrics = self.optimizer.step(flow_loss(velocity, latents, noise))
        self.ema.update(self.teacher)
        return metrics

    def _videos(self, generator: torch.Generator) -> tuple[Tensor, Sequence[str]]:
        """Latents [B F C H W] and prompts, some of them dropped."""
        size = self.config.batch_size
        drawn = torch.randint(len(tiny_world.PROMPTS), (size,), generator=generator).tolist()
        dropped = torch.rand(size, generator=generator) < self.config.prompt_drop
        prompts = [tiny_world.PROMPTS[i] for i in drawn]
        videos = [tiny_world.sample_video(prompt, self.horizon_frames, generator) for prompt in prompts]
        shown = ["" if drop else prompt for prompt, drop in zip(prompts, dropped.tolist(), strict=True)]
        return tiny_world.encode(torch.stack(videos)), shown
