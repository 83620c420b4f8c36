"""diffusers' network with random weights, and ours with the same."""

from dataclasses import asdict

import torch
from diffusers import WanTransformer3DModel

from models.network_config import WanConfig
from models.wan.network import Wan


def stock_class(config: WanConfig, dtype: torch.dtype) -> WanTransformer3DModel:
    """diffusers' network with every weight random: norm weights of one would hide a swapped pair of norms."""
    fields = {name: value for name, value in asdict(config).items() if name != "text_len"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stock = WanTransformer3DModel(**fields).to(dtype).eval().requires_grad_(False)
        for p in stock.parameters():
            p.add_(torch.randn_like(p), alpha=0.02 if p.ndim == 2 else 0.3)
    return stock


def same_weights(stock: WanTransformer3DModel, config: WanConfig) -> Wan:
    with torch.device("meta"):
        ours = Wan(config)
    ours.load_state_dict(stock.state_dict(), strict=True, assign=True)
    return ours.eval().requires_grad_(False)
