"""What an actor streams of its videos, all frames zero: for pools whose actors only take their time."""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from actors.student_actor import blocks_kept
from cluster.config.run_config import Config
from cluster.runs.stage_spec import ActorSpec
from models.records import MadeBlock, Rollout, Window, WindowPlan


class PretendedVideos:
    """Of one dispatch, behind the blocks that were `made` of it."""

    def __init__(self, config: Config | ActorSpec, rollouts: Sequence[Rollout], made: Sequence[MadeBlock] = ()):
        self.rollouts, self.student, self.frames = rollouts, config.student, config.window.frames
        self.recent = deque((block.version for block in made), maxlen=blocks_kept(config.student, config.window))
        last = max(plan.start + self.frames for rollout in rollouts for plan in rollout.windows)
        self.blocks = range(made[-1].index + 1 if made else 0, last // self.student.block_frames)
        """Indices of those that are still to be made."""

    def make(self, index: int, version: int) -> tuple[MadeBlock, list[Window]]:
        """The next block, by weights of that version, and the windows that it ends."""
        block = self.student.block_frames
        self.recent.append(version)
        windows = [
            self._cut(rollout, plan)
            for rollout in self.rollouts
            for plan in rollout.windows
            if plan.start + self.frames == (index + 1) * block
        ]
        return MadeBlock(index, version, self._still(len(self.rollouts), block), {}), windows

    def _cut(self, rollout: Rollout, plan: WindowPlan) -> Window:
        return Window(
            **rollout.sample_fields(plan),
            versions=tuple(self.recent),
            context=self._still(len(self.recent) * self.student.block_frames - self.frames),
            latents=self._still(self.frames),
            noisy=self._still(self.frames),
        )

    def _still(self, *frames: int) -> Tensor:
        return _zeros(*frames, *self.student.frame_shape)


@lru_cache(maxsize=64)
def _zeros(*shape: int) -> Tensor:
    """The same tensor each time: what actors compute, or allocate, is not what is measured."""
    return torch.zeros(shape)
