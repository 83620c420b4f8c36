"""What a reward is."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from rewards.clip import Clip

NEEDS = frozenset({"pixels", "latents", "flow", "text", "reference"})
"""Parts of a clip that a reward may read; flow is computed only where some reward needs it."""
SCOPES = ("window", "group")
"""Clips that come together in a call: any at all, or the same window of all members of one group."""


class Reward(Protocol):
    """Says how good clips are. Made once per process, called from threads of its own, one call at a time."""

    needs: frozenset[str]
    """Out of NEEDS."""
    scope: str
    """Out of SCOPES."""
    # Optional, `unscored: str | None`: why the last call left a clip without a score. People see it.

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """Scores [n] of n clips: higher is better, NaN where the reward cannot tell."""
        ...
