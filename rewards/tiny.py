"""The tiny world's exact judge as rewards: for frames of 12 x 12 and prompts of that world only."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.worlds.tiny_judge import Verdict, judge
from rewards.object_motion import moving_pairs
from rewards.reward import Clip
from rewards.reward_config import RewardConfig


class TinyJudge:
    """Share of frames that are a rendering of the prompted scene."""

    needs = frozenset({"pixels", "text"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        pass

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """Raises ValueError, as the judge does, for other frames and prompts than the tiny world's."""
        return torch.stack([clip.once(_verdict).valid.double().mean() for clip in clips])


class TextAlignment:
    """Share of frames whose sprite has the prompted colour and shape, whatever else is wrong with them."""

    needs = frozenset({"pixels", "text"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        pass

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """Raises ValueError, as the judge does, for other frames and prompts than the tiny world's."""
        verdicts = [clip.once(_verdict) for clip in clips]
        return torch.stack([(seen.colour_right & seen.shape_right).double().mean() for seen in verdicts])


class TinyMotion:
    """Share of pairs of frames that are valid and move at about the prompted speed: flicker is no motion here."""

    needs = frozenset({"pixels", "text"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        pass

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        """NaN for a single frame. Raises ValueError, as the judge does, for other frames and prompts."""
        return torch.stack([moving_pairs(clip.once(_verdict), [clip.prompt]).double().mean() for clip in clips])


def _verdict(clip: Clip) -> Verdict:
    return judge(clip.pixels[None].cpu(), [clip.prompt])
