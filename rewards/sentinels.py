"""Held-out metrics that guard a run against reward hacking: other numbers, on prompts that it does not train on.

A policy that exploits its reward loses in metrics that are no part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from models.keys import key, require_positive


@dataclass(kw_only=True)
class SentinelConfig:
    """Describe the held-out metrics, measured every so many rounds of stage grpo on the same prompts and noise.

    None of these prompts is trained on.
    """

    every: int = key(10, "rounds between two looks")
    prompts: int = key(16, "videos that are looked at: prompts that are not trained on, in turn")
    frames: int = key(48, "length of those videos, in latent frames")
    metrics: list[str] = key(
        ["dynamic_degree", "text_alignment", "exposure_drift"], "rewards that are looked at: names or dotted paths"
    )
    tolerance: float = key(0.1, "share of its first value by which a metric may fall")
    action: str = key("stop", "what happens then: stop, or lower_rate (by rate_factor, each time)")
    rate_factor: float = key(0.5, "what action lower_rate multiplies the learning rate by")

    def __post_init__(self):
        require_positive("sentinel", self, "every", "prompts", "frames")
        for name in ("tolerance", "rate_factor"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"sentinel.{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.action not in ("stop", "lower_rate"):
            raise ValueError(f'sentinel.action is "{self.action}"; set it to stop or lower_rate')
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"sentinel.metrics is {self.metrics}; name at least one reward, and each once")


def metric_drops(first: Mapping[str, float], now: Mapping[str, float], tolerance: float) -> dict[str, float]:
    """Return by metric the share of its first value that it lost, for those that lost more than `tolerance`.

    A metric without a value, now or at first, is left out: it is NaN, and no comparison with NaN holds. So is one that
    began at 0 or below.
    """
    lost = {name: 1 - now[name] / value for name, value in first.items() if value > 0 and name in now}
    return {name: share for name, share in lost.items() if share > tolerance}
