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

    steps: int = key(60, "rounds, each of new groups", ge=1)
    groups: int = key(4, "groups per round, one prompt each", ge=1, le=1_000_000)
    init: str | None = key(None, "first student; none: this run's stage dmd, else the tiny world's shipped student")
    critic: str | None = key(
        None, "first critic, with dmd_weight; none: critic.safetensors that stage dmd wrote, else base"
    )
    loss: str = key(
        "x0_ratio",
        "ppo (mean log-ratio), ratio_norm (GRPO-Guard), x0_ratio (every level counts alike) or regression (CM-GRPO: "
        "no ratio, no clip)",
        choices=LOSSES,
    )
    clip: float = key(1e-4, "half width of the band of ratios that learn", gt=0, lt=1)
    advantage_clip: float = key(5.0, "largest advantage", gt=0)
    std_scope: str = key(
        "max",
        "spread that divides advantages: of the group, of all groups (batch) or of the widest group (max)",
        choices=SCOPES,
    )
    std_floor: float = key(1e-3, "smallest such spread, in units of the reward; groups below it teach nothing", gt=0)
    gamma: float = key(0.8, "share of the next window's reward that a window answers for", ge=0, le=1)
    transition_weights: list[float] = key([], "weight of each stochastic transition, noisiest first; []: all 1", ge=0)
    kl: float = key(0.0, "weight of the KL term to the stage's first student", ge=0)
    dmd_weight: float = key(1.0, "weight of the extended DMD loss; 0: none", ge=0)
    dmd_noising: str = key("recorded", "dmd.noising for that loss", choices=NOISINGS)
    dmd_members: int = key(2, "members of each group in the extended DMD loss, drawn every time", ge=1)
    critic_updates: int = key(3, "critic updates per round, with dmd_weight", ge=1, le=10_000)
    critic_warmup: int = key(3, "first rounds in which only the critic learns, with dmd_weight", ge=0)
    passes: int = key(1, "passes over a round's groups", ge=1, le=10_000)
    minibatches: int = key(2, "updates per pass, each of groups/minibatches groups", ge=1)
    optimizer: AdamWConfig = part(AdamWConfig, lr=5e-5, weight_decay=0.0)
    schedule: str = key("constant", "learning rate: constant, or cosine (to zero)", choices=SCHEDULES)
    ema_decay: float = key(0.95, "decay of the averaged student, per update", ge=0, lt=1)
    correction_cap: float = key(2.0, "largest weight of terms from an older version", ge=1)
    correction_mask: float = key(
        5.0, "likelihood ratio to the power 1/sqrt(dimensions) beyond which they count 0", gt=0
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
                f"write grpo.critic_warmup={self.steps - 1} or less",
            )

    @property
    def updates(self) -> int:
        """Count the steps of the student's optimiser in the whole stage."""
        warm_up = self.critic_warmup if self.dmd_weight else 0
        return max(0, self.steps - warm_up) * self.passes * self.minibatches
