"""Declare the keys of the rewards: their names, windows, optical flow and time-outs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy

from models.errors import ConfigError
from models.keys import KeyGroup, check_address, key, part
from rewards.learned_config import LEARNED, LearnedConfig

_COARSEST = 5
"""Level of DIS' pyramid at which 832 pixels are 26: fewer tell no motion."""

SHIPPED = {
    "continuity": "rewards.continuity.Continuity",
    "flow_continuity": "rewards.continuity.FlowContinuity",
    "exposure_drift": "rewards.drift.ExposureDrift",
    "sharpness_drift": "rewards.drift.SharpnessDrift",
    "no_cut": "rewards.cut.NoCut",
    "dynamic_degree": "rewards.dynamic_degree.DynamicDegree",
    "tiny_judge": "rewards.tiny.TinyJudge",
    "tiny_motion": "rewards.tiny.TinyMotion",
    "text_alignment": "rewards.tiny.TextAlignment",
    "remote": "rewards.remote.Remote",
} | LEARNED
"""Names of rewards, with the dotted paths of their factories: callables of a RewardConfig."""


def check_reward_name(name: str, key: str = "reward.terms") -> None:
    """Raise ConfigError for `key` unless `name` is shipped or has the form of a dotted path. Imports nothing."""
    parts = name.split(".")
    if name not in SHIPPED and (len(parts) < 2 or not all(part.isidentifier() for part in parts)):
        raise ConfigError(
            key, name, "no reward has this name", f"name {', '.join(SHIPPED)}, or the dotted path of your own "
            "(my_package.my_module.MyReward)"
        )  # fmt: skip


@dataclass(kw_only=True)
class RewardConfig(KeyGroup, group="reward"):
    """Configures the rewards. All numbers are choices of this project: the paper names only optical flow."""

    terms: dict[str, float] = key(
        {}, "rewards (names or dotted paths) with their weights, weight 0 logged only; {}: continuity alone", ge=0
    )
    schedule: dict[str, list[float]] = key(
        {}, "factor on a reward's weight by round, as {name: [round, factor, round, factor]}, linear in between"
    )
    window_frames: int = key(12, "length of one rewarded window, in latent frames", ge=1, le=100_000)
    lead_frames: int = key(1, "latent frames before a window that the rewards see with it", ge=1, le=100_000)
    flow: str = key("dis", "optical flow: dis (OpenCV, CPU) or raft (torchvision, GPU)", choices=("dis", "raft"))
    finest_scale: int = key(
        2, "finest pyramid level of DIS: 2 is a quarter of the frame, 0 all of it", ge=0, le=_COARSEST
    )
    raft_size: str = key("large", "RAFT network: large or small", choices=("large", "small"))
    raft_weights: str | None = key(None, "file of torchvision's RAFT weights (.pth or .safetensors)")
    vae: str | None = key(
        None, "file of TAEHV's tiny decoder, fast, that decodes rewarded windows; none: the run's VAE"
    )
    upsample: int = key(1, "factor by which frames are enlarged before optical flow", ge=1, le=64)
    motion: str = key(
        "fastest",
        "motion of a frame: fastest (mean length of flow over its fastest pixels) or coherent (length of the mean "
        "vector over its textured pixels)",
        choices=("fastest", "coherent"),
    )
    top_share: float = key(1.0, "with motion=fastest: share of a frame, the fastest, whose flow counts", gt=0, le=1)
    floor_share: float = key(0.5, "smallest motion without penalty, as a share of the reference's", gt=0)
    floor_pairs: int = key(
        16, "frame pairs at the end of a window whose motion is compared with reward.floor_share", ge=1
    )
    least_motion: float = key(0.05, "smallest motion of the reference, in pixels per frame", gt=0)
    motion_offset: float = key(0.25, "pixels added to motion before its logarithm", gt=0)
    spike_free: float = key(0.25, "change of log motion between pairs that is free of cost, once per window", ge=0)
    smooth_pairs: int = key(1, "neighbouring frame pairs over which motion is averaged, an odd number", ge=1)
    jerk_scale: float = key(2.0, "cost factor on the mean change of log motion", ge=0)
    exposure_scale: float = key(0.1, "drift of mean luma that leaves 1/e of the reward", gt=0)
    contrast_scale: float = key(
        0.5, "drift of log contrast (luma's 95th less 5th percentile) that leaves 1/e of the reward", gt=0
    )
    clipped_scale: float = key(
        0.1, "drift of the share of clipped (black or white) pixels that leaves 1/e of the reward", gt=0
    )
    sharpness_scale: float = key(0.7, "drift of log gradient energy (sharpness) that leaves 1/e of the reward", gt=0)
    residual_scale: float = key(0.3, "residual of optical flow, over contrast, that leaves 1/e of the cut reward", gt=0)
    histogram_scale: float = key(
        0.25, "share of pixels that change their colour bin that leaves 1/e of the cut reward", gt=0
    )
    dynamic_stride: int = key(2, "distance between the paired frames of dynamic_degree, in frames", ge=1, le=1_000_000)
    url: str | None = key(None, "address of the HTTP endpoint of the reward `remote`", resumable=True)
    remote_format: str = key(
        "safetensors",
        "format of a request to reward.url: safetensors or json",
        choices=("safetensors", "json"),
        resumable=True,
    )
    retries: int = key(2, "retries of a failed request to reward.url", ge=0, resumable=True)
    timeout_s: float = key(
        60.0,
        "longest time of one reward for one batch of clips, in seconds; then scores are missing",
        gt=0,
        resumable=True,
    )
    max_failure_rate: float = key(
        0.2, "largest share of missing scores, of at least 50; above it the run stops", gt=0, le=1, resumable=True
    )

    learned: LearnedConfig = part(LearnedConfig)

    @property
    def weights(self) -> dict[str, float]:
        """Return weights by reward: `terms`, or the composite alone where they name none."""
        return self.terms or {"continuity": 1.0}

    def weights_at(self, round_: int) -> Mapping[str, float]:
        """Return weights by reward in a round of stage grpo, by `schedule`."""
        factors = {name: numpy.interp(round_, points[::2], points[1::2]) for name, points in self.schedule.items()}
        return {name: weight * float(factors.get(name, 1.0)) for name, weight in self.weights.items()}

    def __post_init__(self):
        super().__post_init__()
        for name in self.weights:
            check_reward_name(name)
            self.learned.require(name)
        for name, points in self.schedule.items():
            rounds, sound = points[::2], all(math.isfinite(number) and number >= 0 for number in points)
            if not sound or name not in self.weights or not points or len(points) % 2 or rounds != sorted(set(rounds)):
                fix = f"write {{{next(iter(self.weights))}:[0,0,100,1]}}: rounds that rise, each with its factor"
                raise ConfigError("reward.schedule", {name: points}, "no schedule of a reward in reward.terms", fix)
        if not any(self.weights.values()):
            raise ConfigError("reward.terms", self.terms, "all weights are 0", "write one above 0")
        if self.smooth_pairs % 2 == 0:
            raise ConfigError(
                "reward.smooth_pairs", self.smooth_pairs, "even", f"write reward.smooth_pairs={self.smooth_pairs - 1}"
            )
        if self.flow == "raft" and self.raft_weights is None:
            small, large = "raft_small_C_T_V2-01064c6d.pth", "raft_large_C_T_SKHT_V2-ff5fadd5.pth"
            raise ConfigError(
                "reward.raft_weights",
                None,
                "missing, and reward.flow=raft needs torchvision's weights",
                f"write the path of {large if self.raft_size == 'large' else small}",
            )
        if self.url is not None:
            check_address("reward.url", self.url)
        if "remote" in self.weights and self.url is None:
            raise ConfigError("reward.url", None, "missing, and reward.terms has remote", "write its address")
