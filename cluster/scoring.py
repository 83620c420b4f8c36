"""A group's rewards, wherever they are computed: in a reward process on Ray, in the one process inline."""

from dataclasses import dataclass, replace

from torch import Tensor

from cluster.config import Config
from models import tiny_world
from models.rollout import GRPO, SENTINEL, Group
from rewards.scoring import Scorer


@dataclass(frozen=True)
class Scored:
    """A group with its scores."""

    group: Group
    failures: dict[str, str]
    """Why a reward's last missing score is missing."""
    hung: bool
    """A reward did not come back: its thread is left behind, and the process should be replaced."""


class GroupScorer:
    """Scores groups by the rewards of their role: those that are trained on, or the sentinels' metrics."""

    def __init__(self, config: Config):
        names = {GRPO: list(config.reward.terms), SENTINEL: config.sentinel.metrics}
        self.scorers = {role: Scorer(config.reward, own, tiny_world.decode) for role, own in names.items()}

    def __call__(self, group: Group, reference: Tensor | None) -> Scored:
        """`reference` [R C H W] are the first frames of the group's own video, where it does not begin with them."""
        before = group.context[-1] if len(group.context) else None
        scores = self.scorers[group.role].score(group.prompt, group.latents, before, reference)
        return Scored(replace(group, scores=scores.values), scores.failures, scores.hung)
