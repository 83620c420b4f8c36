"""Compare held-out metrics over a run, to detect reward hacking.

A policy that exploits its reward loses in metrics that are no part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import ConfigError
from models.keys import KeyGroup, key


@dataclass(kw_only=True)
class SentinelConfig(KeyGroup, group="sentinel"):
    """Describes the held-out metrics, measured at fixed intervals of stage grpo on the same prompts and noise.

    None of these prompts is trained on.
    """

    every: int = key(10, "rounds of stage grpo between two sentinel measurements", ge=1, le=100_000)
    prompts: int = key(16, "sentinel videos per measurement, of prompts that are not trained on", ge=1, le=1_000_000)
    frames: int = key(48, "length of a sentinel video, in latent frames", ge=1, le=100_000)
    metrics: list[str] = key(
        ["dynamic_degree", "text_alignment", "exposure_drift"],
        "rewards measured on sentinel videos: names or dotted paths",
    )
    tolerance: float = key(0.1, "largest fall of a sentinel metric, as a share of its first value", gt=0, lt=1)
    action: str = key(
        "stop",
        "action when a sentinel metric falls: stop, or lower_rate (by sentinel.rate_factor each time)",
        choices=("stop", "lower_rate"),
    )
    rate_factor: float = key(0.5, "factor on the learning rate with sentinel.action=lower_rate", gt=0, lt=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError("sentinel.metrics", self.metrics, "empty, or a reward twice", "write each reward once")


def metric_drops(first: Mapping[str, float], now: Mapping[str, float], tolerance: float) -> dict[str, float]:
    """Return by metric the share of its first value that it lost, for those that lost more than `tolerance`.

    A metric without a value, now or at first, is left out: it is NaN, and no comparison with NaN holds. So is one that
    began at 0 or below.
    """
    lost = {name: 1 - now[name] / value for name, value in first.items() if value > 0 and name in now}
    return {name: share for name, share in lost.items() if share > tolerance}
