"""Define the interface of a reward: clips in, one score per clip out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from rewards.flow.optical_flow import Flow
from rewards.reward_config import RewardConfig

NEEDS = frozenset({"pixels", "latents", "flow", "text", "reference"})
"""Parts of a clip that a reward may read; flow is computed only where some reward needs it."""
SCOPES = ("window", "group")
"""Clips of one call: any windows, or the same window of all members of one group."""
Statistic = TypeVar("Statistic")


@dataclass(frozen=True, eq=False)
class Clip:
    """Holds one window of one video. It begins with the last frame before the window, so that a cut there is seen."""

    prompt: str
    pixels: Tensor
    """[T 3 H W] float32 in [0, 1]."""
    latents: Tensor
    """Latents [F C H W], without the frame before."""
    flow: Flow | None = None
    """Flow of `pixels`; None where no reward of the run needs it."""
    reference: "Clip | None" = None
    """The same prompt's first seconds by the same model: brightness, sharpness and motion are compared with it."""
    motion_reference: "Sequence[Clip]" = ()
    """Clips whose mean motion replaces that of `reference`: the first windows of all members, or another model's first
    seconds. A member cannot lower the motion that it is compared with."""
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, statistic: Callable[["Clip"], Statistic]) -> Statistic:
        """Compute `statistic(self)` once: windows share a reference, a composite shares with its factors."""
        if statistic not in self._cache:
            self._cache[statistic] = statistic(self)
        return self._cache[statistic]


class Reward(Protocol):
    """Scores clips. One instance per process, called in threads of its own, one call at a time."""

    needs: frozenset[str]
    """Subset of NEEDS."""
    scope: str
    """One of SCOPES."""

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """Return scores [n] of n clips: higher is better, NaN where the reward has no score."""
        ...


@dataclass(eq=False)
class ClipReward:
    """Scores each clip alone: a subclass gives `needs` and `score(clip)`, a score [] on the CPU, NaN for none."""

    config: RewardConfig
    scope: ClassVar[str] = "window"

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([self.score(clip) for clip in clips])


@runtime_checkable
class LoadsModel(Protocol):
    """Adds to a reward a model that takes long to load: making the reward only checks its paths."""

    def load(self) -> None:
        """Load the model, in the process that scores. Raises ConfigError."""
        ...


@runtime_checkable
class ExplainsMissing(Protocol):
    """Adds to a reward the reason for NaN scores of its last call; the log and `rewards.try` print it."""

    unscored: str | None
