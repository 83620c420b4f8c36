"""A process that makes videos. A plain class: cluster/ makes it remote, tests just call it."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from actors.config import WindowConfig
from models.config import StudentConfig
from models.flow import warped_sigmas
from models.kv_cache import KVCache
from models.noise import BlockNoise
from models.rollout import Rollout, Weights, Window
from models.sampler import Block, stream_blocks
from models.wan import Wan


class WeightSource(Protocol):
    """Where an actor finds newer weights."""

    def newer(self, than: int | None) -> Weights | None:
        """The newest published weights if they are newer than version `than`, else None. Never waits."""
        ...


@dataclass(frozen=True)
class _Made:
    """A finished block, on CPU, with the weight version that made it."""

    block: Block
    version: int


class RolloutActor:
    """Rolls the student out, several videos at a time, and yields each planned window when its last block exists."""

    def __init__(
        self,
        student: StudentConfig,
        window: WindowConfig,
        encode_text: Callable[[Sequence[str]], Tensor],
        weights: WeightSource,
        device: str = "cpu",
    ):
        self.config, self.window, self.encode_text, self.weights = student, window, encode_text, weights
        self.device = torch.device(device)
        self.student = Wan(student.wan).to(self.device).eval().requires_grad_(False)
        self.version: int | None = None
        self.sigmas = warped_sigmas(student.timesteps, student.shift)

    def pull(self) -> None:
        """Load newer weights if there are any: no drain, no barrier. Called at block boundaries."""
        weights = self.weights.newer(self.version)
        if weights is not None:
            self.student.load_state_dict(weights.tensors)
            self.version = weights.version

    def windows(self, rollouts: Sequence[Rollout]) -> Iterator[Window]:
        """Windows of `rollouts` in the order in which they are finished. Stops after the last one.

        Memory is flat in the length of the video: only the blocks that a window can still need are kept.
        """
        shape = (self.config.block_frames, *self.config.frame_shape)
        noise = BlockNoise([rollout.seed for rollout in rollouts], shape, self.device)
        text = self.encode_text([rollout.prompt for rollout in rollouts]).to(self.device)
        cache = KVCache(self.config.wan, self.config.context_frames)
        recent = deque(maxlen=self._frames_kept() // self.config.block_frames)
        end = max(plan.start + self.window.frames for rollout in rollouts for plan in rollout.windows)
        self.pull()
        assert self.version is not None, "asked for a rollout before any weights were published"
        blocks = stream_blocks(self.student, text, noise, self.sigmas, cache)
        for finished in range(self.config.block_frames, end + 1, self.config.block_frames):
            recent.append(_Made(_on_cpu(next(blocks)), self.version))
            for i, rollout in enumerate(rollouts):
                for index, plan in enumerate(rollout.windows):
                    if plan.start + self.window.frames == finished:
                        yield self._cut(i, rollout, index, recent)
            self.pull()

    def _frames_kept(self) -> int:
        return self.window.burn_in_frames + self.config.context_frames + self.window.frames

    def _cut(self, i: int, rollout: Rollout, index: int, recent: Sequence[_Made]) -> Window:
        """Window `index` of video `i`, which ends with the newest of the `recent` blocks."""
        plan = rollout.windows[index]
        blocks = self.window.frames // self.config.block_frames
        made = list(recent)
        clean = torch.cat([entry.block.x0[i] for entry in made])
        noisy = torch.cat([entry.block.inputs[plan.step][i] for entry in made[-blocks:]])
        return Window(
            rollout=rollout.id,
            attempt=rollout.attempt,
            index=index,
            role=plan.role,
            prompt=rollout.prompt,
            seed=rollout.seed,
            start=plan.start,
            step=plan.step,
            versions=tuple(entry.version for entry in made),
            context=clean[: -self.window.frames],
            latents=clean[-self.window.frames :],
            noisy=noisy,
        )


def _on_cpu(block: Block) -> Block:
    return Block(block.index, block.x0.cpu(), [x.cpu() for x in block.inputs])
