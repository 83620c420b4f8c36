"""Declare the keys of the policy gradient of stage grpo.

The paper documents of its GRPO the reward, a group-normalised advantage and a clip, and none of their numbers: every
default here is a choice of this project.
"""

from dataclasses import dataclass

from learner.stage_config import NOISINGS, AdamWConfig
from models.errors import ConfigError
from models.keys import KeyGroup, key, part

LOSSES = ("ppo", "ratio_norm", "x0_ratio", "regression")
SCOPES = ("group", "batch", "max")
SCHEDULES = ("constant", "cosine")


@dataclass(kw_only=True)
class GrpoConfig(KeyGroup, group="grpo"):
    """Configures stage `grpo`: policy gradient on segments of long rollouts, in groups with a common past."""

    steps: int = key(60, "rounds of stage grpo, each with new groups", ge=1)
    groups: int = key(4, "groups per round of stage grpo, one prompt each", ge=1, le=1_000_000)
    init: str | None = key(
        None, "student that stage grpo starts from; none: this run's stage dmd, else the tiny world's shipped one"
    )
    critic: str | None = key(
        None, "critic that stage grpo starts from, with grpo.dmd_weight; none: that of stage dmd, else base"
    )
    loss: str = key(
        "x0_ratio",
        "policy loss: ppo (mean log-ratio), ratio_norm (GRPO-Guard), x0_ratio (equal weight for every noise level) or "
        "regression (CM-GRPO: no ratio, no clip)",
        choices=LOSSES,
    )
    clip: float = key(1e-4, "clip range of the likelihood ratio around 1", gt=0, lt=1, resumable=True)
    advantage_clip: float = key(5.0, "largest absolute advantage; larger ones are clipped", gt=0)
    std_scope: str = key(
        "max",
        "standard deviation that divides advantages: of the group, of all groups (batch) or the largest group's (max)",
        choices=SCOPES,
    )
    std_floor: float = key(
        1e-3,
        "smallest standard deviation of a group's rewards, in their unit; groups below it are not trained on",
        gt=0,
    )
    gamma: float = key(0.8, "discount of the next windows' rewards in a window's return, from 0 to 1", ge=0, le=1)
    transition_weights: list[float] = key(
        [], "loss weight of each stochastic denoising transition, noisiest first; []: all 1", ge=0
    )
    kl: float = key(0.0, "weight of the KL term to the student that stage grpo starts from", ge=0)
    dmd_weight: float = key(1.0, "weight of the extended DMD loss in stage grpo; 0: none", ge=0)
    dmd_noising: str = key(
        "recorded",
        "noisy inputs of the extended DMD loss in stage grpo: recorded or fresh, as dmd.noising",
        choices=NOISINGS,
    )
    dmd_members: int = key(2, "members of each group in the extended DMD loss, drawn every time", ge=1)
    critic_updates: int = key(3, "critic updates per round of stage grpo, with grpo.dmd_weight", ge=1, le=10_000)
    critic_warmup: int = key(
        3, "rounds of stage grpo at its start that train the critic only, with grpo.dmd_weight", ge=0
    )
    passes: int = key(1, "passes over a round's groups in stage grpo", ge=1, le=10_000)
    minibatches: int = key(
        2, "student updates per pass over a round's groups, each on groups/minibatches of them", ge=1
    )
    optimizer: AdamWConfig = part(AdamWConfig, lr=5e-5, weight_decay=0.0)
    schedule: str = key(
        "constant",
        "schedule of the learning rate in stage grpo: constant, or cosine (decay to zero)",
        choices=SCHEDULES,
    )
    ema_decay: float = key(0.95, "decay per update of the averaged student in stage grpo", ge=0, lt=1)
    correction_cap: float = key(2.0, "largest importance weight of terms from an older version of the weights", ge=1)
    correction_mask: float = key(
        5.0,
        "largest likelihood ratio (to the power 1/sqrt(dimensions)) of terms from an older version; others are masked",
        gt=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups % self.minibatches:
            raise ConfigError(
                "grpo.groups",
                self.groups,
                f"does not divide into grpo.minibatches={self.minibatches}",
                f"make it a multiple of {self.minibatches}",
            )
        if self.correction_mask < self.correction_cap:
            raise ConfigError(
                "grpo.correction_mask",
                self.correction_mask,
                f"below grpo.correction_cap={self.correction_cap}, so the cap would never act",
                f"write grpo.correction_mask={self.correction_cap} or more",
            )
        if self.transition_weights and not any(self.transition_weights):
            raise ConfigError("grpo.transition_weights", self.transition_weights, "all 0", "write one above 0")
        if self.dmd_weight and self.critic_warmup >= self.steps:
            raise ConfigError(
                "grpo.critic_warmup",
                self.critic_warmup,
                f"all of grpo.steps={self.steps}, so the student would never learn",
                f"write grpo.critic_warmup={self.steps - 1}, or grpo.steps={self.critic_warmup + 1} or more",
            )

    @property
    def updates(self) -> int:
        """Count the steps of the student's optimiser in the whole stage."""
        warm_up = self.critic_warmup if self.dmd_weight else 0
        return max(0, self.steps - warm_up) * self.passes * self.minibatches
