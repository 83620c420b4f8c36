"""Networks with weights that a test can see something move in."""

from dataclasses import replace

import torch

from models.network_config import CONFIGS, TINY
from models.wan.network import Wan

SHALLOW = "tiny_shallow"
"""The tiny network with half its layers: what tests of updates cost grows with the layers, and their laws do not."""
CONFIGS[SHALLOW] = replace(TINY, num_layers=2)


def network(seed: int, model: str = SHALLOW) -> Wan:
    """Random weights, with gates far from their initial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wan = Wan(CONFIGS[model])
        for p in wan.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.02 if p.ndim == 2 else 0.3)
    return wan
