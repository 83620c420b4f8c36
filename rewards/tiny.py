"""Score by the tiny world's exact judge, for frames of 12 x 12 and prompts of that world only.

All raise ValueError, as the judge does, for other frames and prompts. No key changes them.
"""

from torch import Tensor

from models.worlds.tiny_judge import Verdict, judge
from rewards.object_motion import moving_pairs
from rewards.reward import Clip, ClipReward


class TinyJudge(ClipReward):
    """Scores the share of frames that are a rendering of the prompted scene."""

    needs = frozenset({"pixels", "text"})

    def score(self, clip: Clip) -> Tensor:
        return clip.once(_verdict).valid.double().mean()


class TextAlignment(TinyJudge):
    """Scores the share of frames whose sprite has the prompted colour and shape, whatever their other faults."""

    def score(self, clip: Clip) -> Tensor:
        verdict = clip.once(_verdict)
        return (verdict.colour_right & verdict.shape_right).double().mean()


class TinyMotion(TinyJudge):
    """Scores the share of frame pairs that are valid and move at about the prompted speed; NaN for one frame.

    Flicker does not count as motion.
    """

    def score(self, clip: Clip) -> Tensor:
        return moving_pairs(clip.once(_verdict), [clip.prompt]).double().mean()


def _verdict(clip: Clip) -> Verdict:
    return judge(clip.pixels[None].cpu(), [clip.prompt])
