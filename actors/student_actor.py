"""What every actor does that rolls a student out: weights that come while it works, and videos that go on."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from actors.rollout_config import WindowConfig
from models.causal import write_block
from models.computing import ComputeSpec
from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.records import MadeBlock, Rollout, Weights
from models.sampler import SampledBlock
from models.worlds.video_codec import VideoCodec, window_image_latents

_ON_CPU = ComputeSpec()


class WeightSource(Protocol):
    """Where an actor finds newer weights."""

    def newer(self, than: int | None) -> Weights | None:
        """The newest published weights if they are newer than version `than`, else None. Never waits."""
        ...


class StudentActor:
    """A student on a device, with the newest weights that it has pulled: it computes in their dtype."""

    def __init__(
        self,
        student: StudentConfig,
        window: WindowConfig,
        encode_text: Callable[[Sequence[str]], Tensor],
        codec: VideoCodec,
        weights: WeightSource,
        computing: ComputeSpec = _ON_CPU,
    ):
        self.config, self.window, self.encode_text, self.weights = student, window, encode_text, weights
        self.codec = codec
        self.device = computing.device
        self.student = computing.outline(student.wan)
        self.version: int | None = None
        self.sigmas = warped_sigmas(student.timesteps, student.shift)

    def pull(self) -> None:
        """Load newer weights if there are any: no drain, no barrier. Called at block boundaries."""
        weights = self.weights.newer(self.version)
        if weights is not None:
            self.student.load_state_dict(weights.tensors, assign=True)  # a pointer flip: no copy, and no cast
            self.version = weights.version
            weights.check(self.student.state_dict())
        assert self.version is not None, "asked for a rollout before any weights were published"

    @property
    def block_shape(self) -> tuple[int, int, int, int]:
        """(F, C, H, W) of a block."""
        return self.config.block_frames, *self.config.frame_shape

    def noise_of(self, rollouts: Sequence[Rollout]) -> BlockNoise:
        """The videos' noise, wherever they are made."""
        return BlockNoise([rollout.seed for rollout in rollouts], self.block_shape, self.device)

    def text_of(self, rollouts: Sequence[Rollout]) -> Tensor:
        """[B S text_dim]."""
        return self.encode_text([rollout.prompt for rollout in rollouts]).to(self.device)

    def images_of(self, before: Tensor, first: Tensor) -> Tensor | None:
        """See `models.video_codec.window_image_latents`; on CPU, in the dtype of the latents."""
        images = window_image_latents(self.codec, before.to(self.device), first.to(self.device))
        return None if images is None else images.to(first.device, first.dtype)

    def cache_after(self, made: Iterable[MadeBlock], text: Tensor) -> KVCache:
        """The cache as the last frames of `made` leave it."""
        made = list(made)
        cache = KVCache(
            self.config.wan, self.config.context_frames, frames=made[0].index * self.config.block_frames if made else 0
        )
        with torch.no_grad():
            text_keys_values = self.student.text_keys_values(text)
        for block in made:
            cache = write_block(self.student, block.x0.to(self.device), text_keys_values, cache)
        return cache

    def on_cpu(self, block: SampledBlock, steps: Iterable[int] = ()) -> MadeBlock:
        """The block as it travels, with its inputs of these denoising steps."""
        return MadeBlock(block.index, self.version, block.x0.cpu(), {step: block.inputs[step].cpu() for step in steps})


def blocks_kept(student: StudentConfig, window: WindowConfig) -> int:
    """Blocks that a window spans, with the context and the burn-in before it: what is kept of a running video."""
    return (window.burn_in_frames + student.context_frames + window.frames) // student.block_frames
