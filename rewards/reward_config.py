"""Keys of the rewards: which ones, on which windows, by which flow, and how long each may take."""

import math
from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import key, require_address, require_positive

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
}
"""Names of rewards, with the dotted paths of their factories: callables of a RewardConfig."""


def check_reward_name(name: str, key: str = "reward.terms") -> None:
    """Raise ConfigError for `key` unless `name` is shipped or has the form of a dotted path. Imports nothing."""
    parts = name.split(".")
    if name not in SHIPPED and (len(parts) < 2 or not all(part.isidentifier() for part in parts)):
        raise ConfigError(
            key, name, "no reward has this name", f"name {', '.join(SHIPPED)}, or the dotted path of your own "
            "(my_package.my_module.MyReward)",
        )  # fmt: skip


@dataclass(kw_only=True)
class RewardConfig:
    """What videos are rewarded for. The paper names optical flow and no more: every number here is a choice of ours."""

    terms: dict[str, float] = key(
        {}, "rewards (names or dotted paths) and their weights, with weight 0 logged only; none named: continuity alone"
    )
    window_frames: int = key(12, "latent frames of one rewarded window")
    lead_frames: int = key(
        1, "latent frames before a window that are shown with it; 1 is the least that shows a cut on its border"
    )
    flow: str = key("dis", "optical flow: dis (OpenCV, CPU) or raft (torchvision, GPU)")
    finest_scale: int = key(
        2, "finest pyramid level of DIS: 2 computes at a quarter of the frame, 0 at all of it (small frames need it)"
    )
    raft_size: str = key("large", "RAFT network: large or small")
    raft_weights: str | None = key(None, "file of torchvision's RAFT weights (.pth or .safetensors)")
    upsample: int = key(1, "frames are enlarged this many times before flow (tiny world: 4)")
    motion: str = key(
        "fastest",
        "what a frame's motion is: fastest (mean length of flow over its fastest pixels) or coherent (length of the "
        "mean vector over its textured pixels: for one thing that moves)",
    )
    top_share: float = key(1.0, "with motion=fastest: share of a frame, the fastest, whose flow counts")
    floor_share: float = key(0.5, "motion below this share of the reference's is too little")
    floor_pairs: int = key(16, "last pairs of a window whose motion is held against the floor")
    least_motion: float = key(0.05, "the reference's motion counts as at least this many pixels; no dead start as bar")
    motion_offset: float = key(0.25, "pixels added to motion before its logarithm, so that noise at rest is no spike")
    spike_free: float = key(0.25, "change of log motion from pair to pair that costs nothing, once in a window")
    smooth_pairs: int = key(
        1,
        "neighbouring pairs over which motion is averaged before its changes are judged, an odd number; more hide what "
        "shakes from pair to pair, the video's and the flow's (tiny: 3)",
    )
    jerk_scale: float = key(2.0, "cost of the mean change of log motion")
    exposure_scale: float = key(0.1, "drift of mean luma that leaves 1/e of the reward")
    contrast_scale: float = key(0.5, "the same for the logarithm of contrast (luma's 95th less 5th percentile)")
    clipped_scale: float = key(0.1, "the same for the share of black and white pixels")
    sharpness_scale: float = key(0.7, "the same for the logarithm of gradient energy")
    residual_scale: float = key(0.3, "what flow leaves unexplained, over contrast, that leaves 1/e as a cut")
    histogram_scale: float = key(0.25, "the same for the share of pixels that change their colour bin")
    dynamic_stride: int = key(2, "frames between the pairs of dynamic_degree: 8 per second out of 16, as VBench")
    url: str | None = key(None, "endpoint of the reward `remote`")
    remote_format: str = key("safetensors", "body of a request to it: safetensors or json")
    retries: int = key(2, "further tries of a failed request to it")
    timeout_s: float = key(60.0, "longest time of one reward for one batch of clips; then its scores are missing")
    max_failure_rate: float = key(0.2, "share of missing scores, of at least 50, at which a run stops")

    @property
    def weights(self) -> dict[str, float]:
        """By reward, what it counts: `terms`, or the composite alone where they name none."""
        return self.terms or {"continuity": 1.0}

    def __post_init__(self):
        self._check_terms()
        self._check_numbers()
        choices = {
            "flow": ("dis", "raft"),
            "motion": ("fastest", "coherent"),
            "raft_size": ("large", "small"),
            "remote_format": ("safetensors", "json"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f'reward.{name} is "{getattr(self, name)}"; set it to {" or ".join(known)}')
        if self.flow == "raft" and self.raft_weights is None:
            raise ValueError(
                "reward.flow is raft, but reward.raft_weights is not set; give torchvision's weights file ("
                "raft_large_C_T_SKHT_V2-ff5fadd5.pth, or with reward.raft_size=small raft_small_C_T_V2-01064c6d.pth)"
            )
        if self.url is not None:
            require_address("reward.url", self.url)
        if "remote" in self.weights and self.url is None:
            raise ValueError("reward.terms has remote, but reward.url is not set; give the endpoint's address")

    def _check_terms(self) -> None:
        for name, weight in self.weights.items():
            check_reward_name(name)
            if not 0 <= weight < math.inf:
                raise ValueError(f"reward.terms.{name} is {weight}; a weight is at least 0 and finite")
        if not any(self.weights.values()):
            raise ValueError(f"reward.terms is {self.terms}; at least one weight must be above 0")

    def _check_numbers(self) -> None:
        counts = ("window_frames", "lead_frames", "upsample", "floor_pairs", "dynamic_stride", "smooth_pairs")
        scales = ("exposure_scale", "contrast_scale", "clipped_scale", "sharpness_scale", "residual_scale")
        positive = (*scales, "histogram_scale", "least_motion", "motion_offset", "floor_share", "timeout_s")
        require_positive("reward", self, *counts, *positive)
        if self.smooth_pairs % 2 == 0:
            raise ValueError(
                f"reward.smooth_pairs is {self.smooth_pairs}; it must be odd, a pair and as many each side"
            )
        if not 0 <= self.finest_scale <= _COARSEST:
            raise ValueError(f"reward.finest_scale is {self.finest_scale}; it must be 0 to {_COARSEST}")
        for name in ("spike_free", "jerk_scale", "retries"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"reward.{name} is {getattr(self, name)}; it must be at least 0 and finite")
        for name in ("top_share", "max_failure_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"reward.{name} is {getattr(self, name)}; it must be above 0 and at most 1")
