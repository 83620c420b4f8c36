"""Keys of the policy gradient of stage grpo. Imports no torch: help must be quick.

The paper documents of its GRPO the reward, a group-normalised advantage and a clip, and none of their numbers. Every
default here is our choice; the line of its key says whose value it is or what it is for.
"""

import math
from dataclasses import dataclass

from learner.stage_config import NOISINGS
from models.keys import key, require_choice, require_positive, require_share

LOSSES = ("ppo", "ratio_norm", "x0_ratio", "regression")
SCOPES = ("group", "batch", "max")
SCHEDULES = ("constant", "cosine")


@dataclass(kw_only=True)
class GrpoConfig:
    """Stage `grpo`: policy gradient on segments of long rollouts, in groups that share what came before."""

    steps: int = key(60, "rounds, each of new groups (the paper does not say; RAVEN: 160)")
    groups: int = key(4, "groups per round, one prompt each (the paper does not say; peers: 8 and more)")
    init: str | None = key(
        None, "student that the stage starts from; without, this run's stage dmd, else the tiny world's shipped student"
    )
    critic: str | None = key(
        None,
        "critic that the stage starts from, with dmd_weight; without, the one that stage dmd left beside the student "
        "(critic.safetensors), else base: a critic that does not know the student slows its motion",
    )
    loss: str = key(
        "x0_ratio",
        "ppo (mean log-ratio), ratio_norm (GRPO-Guard), x0_ratio (every level counts alike) or regression (CM-GRPO: "
        "no ratio, nothing clipped); the paper sums log-densities, which is 0 or infinity at 10^5 dimensions",
    )
    clip: float = key(
        1e-4,
        "half width of the band of ratios that learn (the paper does not say; peers: 1e-5 to 1e-3); steps of 0.01 in "
        "x0 move x0_ratio by about 0.01/sqrt(dimensions)",
    )
    advantage_clip: float = key(5.0, "largest advantage (the paper does not say; as most peers)")
    std_scope: str = key(
        "max",
        "spread that advantages are divided by: of the group, all groups (batch), the widest group (max: LongCat)",
    )
    std_floor: float = key(1e-3, "smallest such spread, in units of the reward; groups below count as without signal")
    gamma: float = key(0.8, "share of the next window's reward that a window answers for; 0 its own only, 1 all alike")
    transition_weights: list[float] = key([], "what each stochastic transition counts, noisiest first; empty: all 1")
    kl: float = key(0.0, "weight of the KL term to the stage's first student (the paper does not say; or dmd_weight)")
    dmd_weight: float = key(
        1.0, "weight of the extended DMD loss, which keeps the student on its teacher where a reward would not; 0: none"
    )
    dmd_noising: str = key(
        "recorded",
        "as dmd.noising, for that loss; fresh where its windows are longer than groups: they begin before the fork",
    )
    dmd_members: int = key(2, "members of each group that the extended DMD loss and the critic see, others every time")
    critic_updates: int = key(3, "critic updates per round, with dmd_weight")
    critic_warmup: int = key(3, "first rounds in which only the critic learns, with dmd_weight")
    passes: int = key(
        1, "times that a round's groups are learned from; with regression nothing holds a second one back"
    )
    minibatches: int = key(2, "updates per pass, each of groups/minibatches groups; the clip acts from the second on")
    lr: float = key(5e-5, "learning rate of the student (the paper does not say; RAVEN: 5e-6 with LoRA)")
    schedule: str = key(
        "constant", "of the learning rate: constant, or cosine (to zero: what the gradient's noise moved is given back)"
    )
    beta1: float = key(0.0, "AdamW beta1 (as stage dmd)")
    beta2: float = key(0.99, "AdamW beta2 (as stage dmd; Wan: 0.999)")
    weight_decay: float = key(0.0, "AdamW weight decay (RAVEN: 0)")
    grad_clip: float = key(1.0, "largest gradient norm")
    ema_decay: float = key(0.95, "decay of the averaged student, per update (RAVEN: 0.9675)")
    correction_cap: float = key(2.0, "largest weight of terms that an older version drew; at least 1")
    correction_mask: float = key(5.0, "likelihood ratio to the power 1/sqrt(dimensions) beyond which they count 0")

    def __post_init__(self) -> None:
        self._check_numbers()
        require_choice("grpo", self, "loss", LOSSES)
        require_choice("grpo", self, "std_scope", SCOPES)
        require_choice("grpo", self, "schedule", SCHEDULES)
        require_choice("grpo", self, "dmd_noising", NOISINGS)
        if self.groups % self.minibatches:
            raise ValueError(
                f"grpo.groups = {self.groups} does not divide into grpo.minibatches = {self.minibatches}; change one "
                "of them"
            )
        if self.correction_mask < self.correction_cap:
            raise ValueError(
                f"grpo.correction_mask is {self.correction_mask}, below grpo.correction_cap = {self.correction_cap}, "
                "which would never act; change grpo.correction_mask"
            )
        self._check_transition_weights()
        if self.dmd_weight and self.critic_warmup >= self.steps:
            raise ValueError(
                f"grpo.critic_warmup is {self.critic_warmup}, all of grpo.steps = {self.steps}: the student would "
                "never learn; lower it"
            )

    @property
    def updates(self) -> int:
        """Steps of the student's optimiser in the whole stage."""
        warm_up = self.critic_warmup if self.dmd_weight else 0
        return max(0, self.steps - warm_up) * self.passes * self.minibatches

    def _check_numbers(self) -> None:
        counts = ("steps", "groups", "passes", "minibatches", "critic_updates", "dmd_members")
        require_positive("grpo", self, *counts, "advantage_clip", "std_floor", "lr", "grad_clip", "correction_mask")
        require_share("grpo", self, "beta1", "beta2", "weight_decay", "ema_decay")
        for name in ("kl", "dmd_weight", "critic_warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"grpo.{name} is {getattr(self, name)}; it must be 0 or above, and finite")
        if not 0 < self.clip < 1:
            raise ValueError(f"grpo.clip is {self.clip}; it must be above 0 and below 1")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"grpo.gamma is {self.gamma}; it must lie in [0, 1]")
        if not 1 <= self.correction_cap < math.inf:
            raise ValueError(f"grpo.correction_cap is {self.correction_cap}; it must be at least 1, and finite")

    def _check_transition_weights(self) -> None:
        weights = self.transition_weights
        if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ValueError(
                f"grpo.transition_weights is {weights}; they must be 0 or above and finite, and one of them above 0"
            )
