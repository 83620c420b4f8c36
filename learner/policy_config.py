"""Keys of stage grpo and of its sentinels. Imports no torch: help must be quick.

The paper documents of its GRPO the reward, a group-normalised advantage and a clip, and none of their numbers. Every
default here is our choice; the line of its key says whose value it is or what it is for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.keys import key, require_positive, require_share

LOSSES = ("ppo", "ratio_norm", "x0_ratio", "regression")
SCOPES = ("group", "batch", "max")


@dataclass(kw_only=True)
class GrpoConfig:
    """Stage `grpo`: policy gradient on segments of long rollouts, in groups that share what came before."""

    steps: int = key(60, "rounds, each of new groups (the paper does not say; RAVEN: 160)")
    groups: int = key(4, "groups per round, one prompt each (the paper does not say; peers: 8 and more)")
    members: int = key(8, "continuations of a group, compared with each other (the paper does not say; peers: 4 to 32)")
    segment_frames: int = key(12, "frames that a group generates after its fork (ours: the paper trains whole videos)")
    init: str | None = key(None, "student weights that the stage starts from; without, those of stage dmd")
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
    transitions: str = key("one", "transitions of a block that learn: one, drawn for every group (LongCat), or all")
    transition_weights: list[float] = key([], "what each stochastic transition counts, noisiest first; empty: all 1")
    noise: str = key(
        "first",
        "noise that a group shares: first (each block's initial noise, which no loss scores), fresh (none), or one "
        "(all but that of the one transition that learns; needs transitions=one)",
    )
    kl: float = key(0.0, "weight of the KL term to the stage's first student (the paper does not say; or dmd_weight)")
    dmd_weight: float = key(
        1.0, "weight of the extended DMD loss, which keeps the student on its teacher where a reward would not; 0: none"
    )
    critic_updates: int = key(3, "critic updates per round, with dmd_weight")
    critic_warmup: int = key(20, "critic updates before the first round, with dmd_weight")
    passes: int = key(
        1, "times that a round's groups are learned from; with regression nothing holds a second one back"
    )
    minibatches: int = key(2, "updates per pass, each of groups/minibatches groups; the clip acts from the second on")
    lr: float = key(5e-5, "learning rate of the student (the paper does not say; RAVEN: 5e-6 with LoRA)")
    beta1: float = key(0.0, "AdamW beta1 (as stage dmd)")
    beta2: float = key(0.99, "AdamW beta2 (as stage dmd; Wan: 0.999)")
    weight_decay: float = key(0.0, "AdamW weight decay (RAVEN: 0)")
    grad_clip: float = key(1.0, "largest gradient norm")
    ema_decay: float = key(0.95, "decay of the averaged student, per update (RAVEN: 0.9675)")
    correction_cap: float = key(2.0, "largest weight of terms that an older version drew; at least 1")
    correction_mask: float = key(5.0, "likelihood ratio to the power 1/sqrt(dimensions) beyond which they count 0")

    def __post_init__(self) -> None:
        self._check_numbers()
        _require_choice("grpo", self, "loss", LOSSES)
        _require_choice("grpo", self, "std_scope", SCOPES)
        _require_choice("grpo", self, "transitions", ("one", "all"))
        _require_choice("grpo", self, "noise", ("first", "fresh", "one"))
        if self.members < 2:
            raise ValueError(
                f"grpo.members is {self.members}: one continuation has nothing to be compared with; make it at least 2"
            )
        if self.groups % self.minibatches:
            raise ValueError(
                f"grpo.groups = {self.groups} does not divide into grpo.minibatches = {self.minibatches}; change "
                "grpo.minibatches"
            )
        if self.noise == "one" and self.transitions == "all":
            raise ValueError(
                "grpo.noise is one, which shares the noise of every transition but the one that learns; set "
                "grpo.transitions=one, or grpo.noise=first"
            )
        if self.correction_mask < self.correction_cap:
            raise ValueError(
                f"grpo.correction_mask is {self.correction_mask}, below grpo.correction_cap = {self.correction_cap}, "
                "which would never act; change grpo.correction_mask"
            )
        self._check_transition_weights()

    def _check_numbers(self) -> None:
        counts = ("steps", "groups", "segment_frames", "passes", "minibatches", "critic_updates")
        require_positive("grpo", self, *counts, "advantage_clip", "std_floor", "lr", "grad_clip", "correction_mask")
        require_share("grpo", self, "beta1", "beta2", "weight_decay", "ema_decay")
        for name in ("kl", "dmd_weight", "critic_warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"grpo.{name} is {getattr(self, name)}; it must be 0 or above, and finite")
        if not 0 < self.clip < 1:
            raise ValueError(f"grpo.clip is {self.clip}; it must lie between 0 and 1")
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

    def weights_of(self, transitions: int) -> list[float]:
        """What each of so many stochastic transitions counts. Raises ValueError if others are configured."""
        if self.transition_weights and len(self.transition_weights) != transitions:
            raise ValueError(
                f"grpo.transition_weights is {self.transition_weights}, but a block of student.timesteps has "
                f"{transitions} stochastic transitions; give {transitions} weights, or none"
            )
        return list(self.transition_weights) or [1.0] * transitions


@dataclass(kw_only=True)
class SentinelConfig:
    """Held-out measures that no reward may cost: they stop a run of stage grpo, or lower its rate."""

    every: int = key(10, "rounds between two measurements; one is taken before the first round, to compare with")
    prompts: int = key(16, "held-out prompts, always the same with the same noise")
    frames: int = key(48, "frames of each of their rollouts")
    metrics: list[str] = key(
        ["dynamic_degree", "text_alignment", "exposure_drift"], "measures, by name; none of them may be a reward"
    )
    tolerance: float = key(0.1, "share of its first value by which a measure may get worse")
    action: str = key("stop", "what happens beyond it: stop the run, or lower_rate and go on")
    rate_factor: float = key(0.5, "what lower_rate multiplies the learning rate with, each time")

    def __post_init__(self) -> None:
        require_positive("sentinel", self, "every", "prompts", "frames")
        _require_choice("sentinel", self, "action", ("stop", "lower_rate"))
        for name in ("tolerance", "rate_factor"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"sentinel.{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"sentinel.metrics is {self.metrics}; name at least one measure, and each only once")


def _require_choice(group: str, config: GrpoConfig | SentinelConfig, name: str, choices: Sequence[str]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f'{group}.{name} is "{value}"; set it to {", ".join(choices[:-1])} or {choices[-1]}')
