"""Attach low-rank adapters (LoRA, by peft) to the linear layers of the blocks, in the learner only."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models.noise import Draw, generator_for
from models.wan.network import Wan

_TARGETS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"
ADAPTER_ENDINGS = (_DOWN, _UP)
"""Endings of the names of an adapter's weights."""


def add_adapters(network: Wan, rank: int, alpha: float) -> None:
    """Add adapters of `rank` to the attention and feed-forward matrices and freeze everything else."""
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, and only LoRA runs need it

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=_TARGETS), network)


def plain_name(name: str) -> str:
    """Return the name in diffusers of a weight with an adapter."""
    return name.replace(".base_layer.", ".")


def adapter_start(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Draw an adapter's start: as peft draws them, but by (seed, name), so equal on every rank."""
    if name.endswith(_UP):
        return torch.zeros(shape)
    bound = 1 / math.sqrt(shape[1])
    generator = generator_for(seed, Draw.ADAPTERS, *name.encode())
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def merge_lora(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return full tensors under diffusers' names, with `scale` * up @ down added where there is an adapter."""
    plain = {plain_name(name): tensor for name, tensor in tensors.items() if not name.endswith(ADAPTER_ENDINGS)}
    for name, down in tensors.items():
        if name.endswith(_DOWN):
            layer = name.removesuffix(_DOWN)
            plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + scale * (tensors[layer + _UP] @ down)
    return plain
