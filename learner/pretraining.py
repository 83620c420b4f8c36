"""Stage `teacher`: a bidirectional teacher learns the tiny world by flow matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.losses.dmd import flow_loss
from learner.stage_config import PretrainConfig
from learner.trained_network import RegressionLearner, TrainedNetwork
from models.flow_matching import add_noise, shift_sigma
from models.noise import Draw, generator_for
from models.worlds import tiny_world


class Pretrainer(RegressionLearner):
    """Trains the teacher on real videos by flow matching.

    Some prompts are dropped, so that guidance has an unconditional branch.
    """

    def __init__(
        self, teacher: TrainedNetwork, config: PretrainConfig, horizon_frames: int, micro_batch: int | None, seed: int
    ):
        super().__init__(teacher, micro_batch)
        self.config, self.horizon_frames, self.seed = config, horizon_frames, seed

    def update(self) -> dict[str, float]:
        """Update on a fresh batch of videos, each drawn from (seed, update, place in the whole batch)."""
        metrics = self.fit(self.config.batch_size, self._losses)
        self.trained.ema.update(self.trained.network)
        return metrics

    def _losses(self, places: Sequence[int]) -> Tensor:
        """Return the flow-matching losses [B] of the videos at these places."""
        drawn = [self._sample(generator_for(self.seed, Draw.PRETRAINING, self.step, place)) for place in places]
        latents, prompts, sigma, noise = zip(*drawn, strict=True)
        latents, sigma, noise = (torch.stack(tensors).to(self.device) for tensors in (latents, sigma, noise))
        text = tiny_world.encode_text(prompts).to(self.device)
        return flow_loss(self.trained.network(add_noise(latents, noise, sigma), 1000 * sigma, text), latents, noise)

    def _sample(self, generator: torch.Generator) -> tuple[Tensor, str, Tensor, Tensor]:
        """Draw a video's latents [F C H W], its prompt (empty when dropped), a noise level and noise [F C H W]."""
        prompt = tiny_world.PROMPTS[int(torch.randint(len(tiny_world.PROMPTS), (), generator=generator))]
        dropped = bool(torch.rand((), generator=generator) < self.config.prompt_drop)
        latents = tiny_world.to_latents(tiny_world.sample_video(prompt, self.horizon_frames, generator)[None])[0]
        sigma = shift_sigma(torch.rand((), generator=generator), self.config.shift)
        return latents, "" if dropped else prompt, sigma, torch.randn(latents.shape, generator=generator)
