"""Rewards of a user's own, some of them badly behaved, named by their dotted path."""

import os
import threading
from collections.abc import Sequence

from torch import Tensor, tensor

from rewards.reward import Clip
from rewards.reward_config import RewardConfig


class Brightness:
    """Mean of a clip's pixels; what goes wrong on the way is what the prompt says."""

    needs = frozenset({"pixels"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        pass

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        match clips[0].prompt:
            case "dies":
                os._exit(1)
            case "hangs":
                threading.Event().wait()
            case "raises":
                raise RuntimeError("no-weights")
        return tensor([clip.pixels.mean().item() for clip in clips])
