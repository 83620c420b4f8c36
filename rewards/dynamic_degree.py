"""Measure the motion of a clip by another flow than the rewards': a sentinel, not a training reward.

After VBench's dynamic degree: the fastest 5 % of a frame against 6 pixels at 256, at 8 frames per second. VBench uses
RAFT and counts the pairs above; this uses Farneback's flow and a soft count, which shows slowing down before a pair
falls below.
"""

from itertools import pairwise

import cv2
import numpy
import torch
from torch import Tensor

from rewards.flow.optical_flow import grey_frames
from rewards.reward import Clip, ClipReward

TOP_SHARE = 0.05
THRESHOLD = 6.0 / 256
"""Speed per pair, as a share of a frame's shorter side."""


def soft_dynamic_degree(speed: Tensor, shorter_side: int) -> Tensor:
    """Average s^2 / (s^2 + threshold^2) over pairs, in [0, 1): `speed` [N] in pixels; one half at the threshold."""
    threshold = THRESHOLD * shorter_side
    return (speed.square() / (speed.square() + threshold**2)).mean()


class DynamicDegree(ClipReward):
    """Scores frames that lie reward.dynamic_stride apart by `soft_dynamic_degree`; NaN for a clip of fewer."""

    needs = frozenset({"pixels"})

    def score(self, clip: Clip) -> Tensor:
        grey = grey_frames(clip.pixels, self.config.upsample)[:: self.config.dynamic_stride]
        if len(grey) < 2:
            return torch.tensor(torch.nan)
        speeds = []
        for first, second in pairwise(grey):
            flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)
            length = torch.from_numpy(numpy.hypot(flow[..., 0], flow[..., 1])).flatten()
            speeds.append(length.topk(max(1, round(TOP_SHARE * len(length)))).values.mean().item())
        return soft_dynamic_degree(torch.tensor(speeds), min(grey.shape[1:]))
