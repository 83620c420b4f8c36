"""How much a clip moves: from a field of flow to a number per pair, in pixels of the frames that flow saw."""

from collections.abc import Callable

import torch
from torch import Tensor

from rewards.flow.optical_flow import Flow
from rewards.reward_config import RewardConfig

Motion = tuple[Tensor, Tensor]
"""The motion of each pair [T-1], and the invalid share [T-1] of its flow."""


def fastest(flow: Flow, top_share: float) -> Motion:
    """Mean length of flow over the fastest `top_share` of pixels, times the valid share of all."""
    invalid = flow.invalid.flatten(1).to(flow.forward).mean(1)
    length = torch.hypot(*flow.forward.unbind(1)).flatten(1)
    kept = max(1, round(top_share * length.shape[1]))
    if kept < length.shape[1]:
        length = length.topk(kept, dim=1, sorted=False).values
    return length.mean(1) * (1 - invalid), invalid


def coherent(flow: Flow) -> Motion:
    """Length of the mean vector of flow, where pixels count by their texture and invalid ones as standing still.

    What boils or moves apart cancels, and so does most of the noise of flow that was computed too coarsely for its
    frames (docs/decisions.md compares both). A picture without texture does not move.
    """
    seen = flow.texture.flatten(1)
    valid = ~flow.invalid.flatten(1)
    total = (flow.forward.flatten(2) * (seen * valid)[:, None]).sum(2)
    mean = total / seen.sum(1).clamp_min(torch.finfo(seen.dtype).tiny)[:, None]
    return torch.linalg.vector_norm(mean, dim=1), (~valid).to(seen).mean(1)


MOTIONS: dict[str, Callable[[Flow, RewardConfig], Motion]] = {
    "fastest": lambda flow, config: fastest(flow, config.top_share),
    "coherent": lambda flow, config: coherent(flow),
}


def motion(flow: Flow, config: RewardConfig) -> Motion:
    """By the measure that `config.motion` names."""
    return MOTIONS[config.motion](flow, config)
