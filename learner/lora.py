"""Attach low-rank adapters (LoRA, by peft) to the linear layers of the blocks, in the learner only."""

import math
from collections import UserDict
from collections.abc import Mapping

import torch
from torch import Tensor

from learner.parallel.sharding import full_tensor
from models.checkpoints.safetensors_files import Stored
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


class MergedTensors(UserDict[str, Tensor]):
    """Gives a network's full tensors under diffusers' names, `scale` * up @ down added where there is an adapter.

    A look-up gathers a tensor that is sharded (a collective), so that ranks need hold no more than one.
    """

    def __init__(self, tensors: Mapping[str, Tensor], scale: float = 0.0):
        self.tensors, self.scale = tensors, scale
        plain = {plain_name(name): tensor for name, tensor in tensors.items() if not name.endswith(ADAPTER_ENDINGS)}
        super().__init__(plain)
        self.stored = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in plain.items()}
        """Shape and dtype of each."""

    def __getitem__(self, name: str) -> Tensor:
        full, layer = full_tensor(self.data[name].detach()), name.removesuffix(".weight")
        if layer + _DOWN not in self.tensors:
            return full
        down, up = (full_tensor(self.tensors[layer + ending].detach()) for ending in ADAPTER_ENDINGS)
        return full + self.scale * (up @ down)
