"""Train stage `teacher`: a bidirectional teacher learns the tiny world by flow matching."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.losses.dmd import squared_error
from learner.stage_config import PretrainConfig
from learner.trained_network import RegressionLearner
from models.flow_matching import add_noise, shift_sigma
from models.noise import Draw, generator_for, to_device
from models.worlds import tiny_prompts, tiny_world


@dataclass(eq=False)
class Pretrainer(RegressionLearner):
    """Trains the teacher on real videos by flow matching.

    Some prompts are dropped, so that guidance has an unconditional branch.
    """

    config: PretrainConfig
    horizon_frames: int

    def update(self) -> dict[str, float]:
        """Update on a fresh batch of videos, each drawn from (seed, update, place in the whole batch)."""
        metrics = self.fit(self.config.batch_size, self._losses)
        self.trained.ema.update(self.trained.network)
        return metrics

    def _losses(self, places: Sequence[int]) -> Tensor:
        """Return the flow-matching losses [B] of the videos at these places."""
        device, drawn = self.trained.device, []
        for place in places:
            generator = generator_for(self.seed, Draw.PRETRAINING, self.step, place)
            prompt = tiny_prompts.PROMPTS[int(torch.randint(len(tiny_prompts.PROMPTS), (), generator=generator))]
            dropped = bool(torch.rand((), generator=generator) < self.config.prompt_drop)
            latents = tiny_world.to_latents(tiny_world.sample_video(prompt, self.horizon_frames, generator)[None])[0]
            sigma = shift_sigma(torch.rand((), generator=generator), self.config.shift)
            noise = torch.randn(latents.shape, generator=generator)
            drawn.append((latents, "" if dropped else prompt, sigma, noise))
        latents, prompts, sigma, noise = zip(*drawn, strict=True)
        latents, sigma, noise = (to_device(torch.stack(tensors), device) for tensors in (latents, sigma, noise))
        text = to_device(tiny_world.encode_text(prompts), device)
        velocity = self.trained.network(add_noise(latents, noise, sigma), 1000 * sigma, text)
        return squared_error(velocity, noise - latents)
