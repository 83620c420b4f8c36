"""Compute a group's rewards, in a reward process on Ray or in the one process inline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cluster.run_errors import RunFailed
from models.errors import ConfigError
from models.records import GRPO, SENTINEL, Group
from models.worlds.video_codec import VideoCodec
from rewards.reward_config import RewardConfig
from rewards.scorer import Scorer


@dataclass(frozen=True)
class Scored:
    """Holds a group with its scores."""

    group: Group
    failures: dict[str, str]
    """Why a reward's last missing score is missing."""
    hung: bool
    """A reward did not come back: its thread is left behind, and the process should be replaced."""


class GroupScorer:
    """Scores groups by the rewards of their role: those that are trained on, or the sentinels' metrics."""

    def __init__(self, reward: RewardConfig, sentinels: Sequence[str], codec: VideoCodec, device: torch.device):
        """Build the scorers; `sentinels` are metric names, `codec` is on `device`. Raises ValueError."""
        self.codec, self.device = codec, device
        names = {GRPO: list(reward.weights), SENTINEL: list(sentinels)}
        self.scorers = {role: Scorer(reward, own, self._decode) for role, own in names.items()}

    def load(self) -> None:
        """Load the models of the rewards. Raises RunFailed."""
        try:
            for scorer in self.scorers.values():
                scorer.load()
        except ConfigError as error:  # paths were checked before the start: this is a model that does not work
            raise RunFailed(str(error)) from error

    def __call__(self, group: Group, reference: Tensor | None) -> Scored:
        """Score `group`; `reference` [R C H W] are its video's first frames, where it does not begin with them."""
        before = group.context if len(group.context) else None
        scores = self.scorers[group.role].score(group.prompt, group.latents, before, reference)
        return Scored(replace(group, scores=scores.values), scores.failures, scores.hung)

    def _decode(self, latents: Tensor) -> Tensor:
        """Decode to pixels [B T 3 H W], one video at a time: each takes 1.9 GB in Wan's decoder."""
        return torch.cat([self.codec.decode(video[None].to(self.device))[0].cpu() for video in latents])
