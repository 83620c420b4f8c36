"""Pull weights between blocks and resume videos of lost actors: the base of actors that roll a student out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from actors.rollout_config import WindowConfig
from models.causal import write_block
from models.flow_matching import warped_sigmas
from models.kv_cache import RollingCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.records import MadeBlock, Rollout, Weights
from models.sampler import SampledBlock, stream_blocks
from models.wan.network import ComputeSpec
from models.worlds.video_codec import VideoCodec, window_image_latents

_ON_CPU = ComputeSpec()


class WeightSource(Protocol):
    """Gives an actor newer weights."""

    def newer(self, than: int | None) -> Weights | None:
        """Return the newest published weights if they are newer than version `than`, else None. Never waits."""
        ...


class StudentActor:
    """Holds a student on a device, with the newest weights that it has pulled, in their dtype."""

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
        self.block_shape = (student.block_frames, *student.frame_shape)
        """(F, C, H, W) of a block."""

    def pull(self) -> None:
        """Load newer weights if there are any, without waiting. Called at block boundaries.

        Raises WeightsDiffer where the network does not hold them as published, RuntimeError before the first version.
        """
        weights = self.weights.newer(self.version)
        if weights is not None:
            self.student.load_state_dict(weights.tensors, assign=True)  # moves pointers: no copy, and no cast
            self.version = weights.version
            weights.check(self.student.state_dict())
        if self.version is None:
            raise RuntimeError("a rollout was dispatched before any weights were published")

    def resume(
        self, rollouts: Sequence[Rollout], recent: Sequence[MadeBlock]
    ) -> tuple[Tensor, RollingCache, Iterator[SampledBlock]]:
        """Pull weights, and stream the blocks of `rollouts` behind their `recent` ones, with the noise of their seeds.

        Returns the text embeddings [B S text_dim], the cache, rebuilt from `recent` under the newest weights, and the
        stream.
        """
        text = self.encode_text([rollout.prompt for rollout in rollouts]).to(self.device)
        self.pull()
        frames = recent[0].index * self.config.block_frames if recent else 0
        cache = RollingCache(self.config.wan, self.config.context_frames, frames=frames)
        with torch.no_grad():
            text_keys_values = self.student.text_keys_values(text)
        for block in recent:
            cache = write_block(self.student, block.x0.to(self.device), text_keys_values, cache)
        noise = BlockNoise([rollout.seed for rollout in rollouts], self.block_shape, self.device)
        return text, cache, stream_blocks(self.student, text, noise, self.sigmas, cache)

    def images_of(self, before: Tensor, first: Tensor) -> Tensor | None:
        """Call `models.worlds.video_codec.window_image_latents`; on CPU, in the dtype of the latents."""
        images = window_image_latents(self.codec, before.to(self.device), first.to(self.device))
        return None if images is None else images.to(first.device, first.dtype)

    def on_cpu(self, block: SampledBlock, steps: Iterable[int] = ()) -> MadeBlock:
        """Copy a block to the CPU for transport, with its inputs of these denoising steps."""
        return MadeBlock(block.index, self.version, block.x0.cpu(), {step: block.inputs[step].cpu() for step in steps})


def blocks_kept(student: StudentConfig, window: WindowConfig) -> int:
    """Count the blocks of a window with its context and burn-in: how much of a running video is kept."""
    return (window.burn_in_frames + student.context_frames + window.frames) // student.block_frames
