"""diffusers' network with random weights, and ours with the same."""

import torch
from diffusers import WanTransformer3DModel

from models.network_config import WanConfig
from models.wan.network import Wan
from models.worlds.random_wan import random_transformer


def stock_class(config: WanConfig, dtype: torch.dtype) -> WanTransformer3DModel:
    """diffusers' network with every weight random: norm weights of one would hide a swapped pair of norms."""
    return random_transformer(config).to(dtype)


def same_weights(stock: WanTransformer3DModel, config: WanConfig) -> Wan:
    with torch.device("meta"):
        ours = Wan(config)
    ours.load_state_dict(stock.state_dict(), strict=True, assign=True)
    return ours.eval().requires_grad_(False)
