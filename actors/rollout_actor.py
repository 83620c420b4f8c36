"""A process that makes videos. A plain class: cluster/ makes it remote, tests just call it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from actors.config import WindowConfig
from models.causal import write_block
from models.config import StudentConfig
from models.fingerprint import PublishedWeights
from models.flow import warped_sigmas
from models.kv_cache import KVCache
from models.noise import BlockNoise
from models.rollout import MadeBlock, Rollout, Weights, Window, WindowPlan
from models.sampler import Block, stream_blocks
from models.wan import Wan


class WeightSource(Protocol):
    """Where an actor finds newer weights."""

    def newer(self, than: int | None) -> Weights | None:
        """The newest published weights if they are newer than version `than`, else None. Never waits."""
        ...


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
            self.student.load_state_dict(weights.tensors, assign=True)  # a pointer flip, no copy
            self.version = weights.version
            if isinstance(weights, PublishedWeights):
                weights.check(self.student.state_dict())

    def windows(self, rollouts: Sequence[Rollout], made: Sequence[MadeBlock] = ()) -> Iterator[Window | MadeBlock]:
        """Windows of `rollouts` in the order in which they are finished, and each block before its windows.

        Stops after the last window. `made` are the last blocks of these videos, streamed by an actor that was lost:
        the videos go on behind them, with the noise that they would have had. The cache is rebuilt from these blocks
        under the newest weights, as the learner rebuilds it. Memory is flat in the length of the video: only the
        blocks that a window can still need are kept.
        """
        block_frames = self.config.block_frames
        noise = BlockNoise(
            [rollout.seed for rollout in rollouts], (block_frames, *self.config.frame_shape), self.device
        )
        text = self.encode_text([rollout.prompt for rollout in rollouts]).to(self.device)
        recent = deque(made, maxlen=blocks_kept(self.config, self.window))
        last = max(plan.start + self.window.frames for rollout in rollouts for plan in rollout.windows) // block_frames
        self.pull()
        assert self.version is not None, "asked for a rollout before any weights were published"
        cache = self._cache_after(recent, text)
        blocks = stream_blocks(self.student, text, noise, self.sigmas, cache)
        for index in range(cache.frames // block_frames, last):
            recent.append(self._made(next(blocks), rollouts))
            yield recent[-1]
            for i, rollout in enumerate(rollouts):
                for plan in rollout.windows:
                    if plan.start + self.window.frames == (index + 1) * block_frames:
                        yield self._cut(i, rollout, plan, recent)
            self.pull()

    def _cache_after(self, made: Iterable[MadeBlock], text: Tensor) -> KVCache:
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

    def _made(self, block: Block, rollouts: Sequence[Rollout]) -> MadeBlock:
        """The block on CPU, with the inputs that planned windows over it record."""
        first = block.index * self.config.block_frames
        steps = {
            plan.step
            for rollout in rollouts
            for plan in rollout.windows
            if plan.start <= first < plan.start + self.window.frames
        }
        inputs = {step: block.inputs[step].cpu() for step in sorted(steps)}
        return MadeBlock(block.index, self.version, block.x0.cpu(), inputs)

    def _cut(self, i: int, rollout: Rollout, plan: WindowPlan, recent: Sequence[MadeBlock]) -> Window:
        """A window of video `i`, which ends with the newest of the `recent` blocks."""
        blocks = self.window.frames // self.config.block_frames
        made = list(recent)
        clean = torch.cat([block.x0[i] for block in made])
        noisy = torch.cat([block.inputs[plan.step][i] for block in made[-blocks:]])
        return Window(
            rollout=rollout.id,
            attempt=rollout.attempt,
            index=plan.index,
            role=plan.role,
            prompt=rollout.prompt,
            seed=rollout.seed,
            start=plan.start,
            step=plan.step,
            versions=tuple(block.version for block in made),
            context=clean[: -self.window.frames],
            latents=clean[-self.window.frames :],
            noisy=noisy,
        )


def blocks_kept(student: StudentConfig, window: WindowConfig) -> int:
    """Blocks that a window spans, with the context and the burn-in before it: what is kept of a running video."""
    return (window.burn_in_frames + student.context_frames + window.frames) // student.block_frames
