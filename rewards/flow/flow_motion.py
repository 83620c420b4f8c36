"""Measure motion of frame pairs from their flow, in pixels of the flow's frames."""

import torch
from torch import Tensor

from rewards.flow.optical_flow import Flow
from rewards.reward_config import RewardConfig

PairMotion = tuple[Tensor, Tensor]
"""Motion of each pair [T-1] in pixels, and the invalid share [T-1] of its flow."""


def fastest(flow: Flow, top_share: float) -> PairMotion:
    """Average the length of flow over the fastest `top_share` of pixels, times the valid share of all."""
    invalid = flow.invalid.flatten(1).to(flow.forward).mean(1)
    length = torch.hypot(*flow.forward.unbind(1)).flatten(1)
    kept = max(1, round(top_share * length.shape[1]))
    if kept < length.shape[1]:
        length = length.topk(kept, dim=1, sorted=False).values
    return length.mean(1) * (1 - invalid), invalid


def coherent(flow: Flow) -> PairMotion:
    """Take the length of flow's mean vector, weighted by texture, with invalid pixels as standing still.

    Boiling and motion in opposite directions cancel, and so does most of the noise of flow computed too coarsely for
    its frames (docs/decisions/LOG.md compares both). A picture without texture does not move.
    """
    seen = flow.texture.flatten(1)
    valid = ~flow.invalid.flatten(1)
    total = (flow.forward.flatten(2) * (seen * valid)[:, None]).sum(2)
    mean = total / seen.sum(1).clamp_min(torch.finfo(seen.dtype).tiny)[:, None]
    return torch.linalg.vector_norm(mean, dim=1), (~valid).to(seen).mean(1)


def pair_motion(flow: Flow, config: RewardConfig) -> PairMotion:
    """Measure `flow` as `config.motion` names: `fastest` or `coherent`."""
    return coherent(flow) if config.motion == "coherent" else fastest(flow, config.top_share)
