"""Networks with weights that a test can see something move in."""

import torch

from models.network_config import CONFIGS
from models.wan.network import Wan


def network(seed: int, model: str = "tiny") -> Wan:
    """Random weights, with gates far from their initial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wan = Wan(CONFIGS[model])
        for p in wan.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.02 if p.ndim == 2 else 0.3)
    return wan
