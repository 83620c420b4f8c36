"""Quantise the products of the student's blocks for inference, by torchao."""

import logging
from importlib.util import find_spec

import torch
from torch import nn

from models.errors import ConfigError
from models.wan.network import Wan

_CAPABILITY = {"int8": (8, 0), "fp8": (8, 9)}
"""Least compute capability of a GPU with products of these numbers."""


def check_quantization(numbers: str | None, device: torch.device) -> None:
    """Check that `device` multiplies these numbers. Raises ConfigError."""
    if numbers is None:
        return
    cure = "leave quantize out"
    if find_spec("torchao") is None:
        raise ConfigError("quantize", numbers, "torchao is not installed", f"pip install torchao, or {cure}")
    if device.type == "cpu":  # fp8 is missing there, and int8 slower than bfloat16: docs/decisions/0066
        problem = "no faster on a CPU than bfloat16"
        raise ConfigError("quantize", numbers, problem, f"write dtype=bfloat16, or {cure}")
    if (found := torch.cuda.get_device_capability(device)) < _CAPABILITY[numbers]:
        needed, present = (".".join(map(str, each)) for each in (_CAPABILITY[numbers], found))
        problem = f"needs a GPU of compute capability {needed}; this one has {present}"
        raise ConfigError("quantize", numbers, problem, cure)


def quantize_blocks(network: Wan, numbers: str | None) -> None:
    """Quantise weights and activations of the blocks' products, in place; call `check_quantization` before.

    Each row of a weight has a scale of its own, and so has each token of an activation, measured in every call.
    Embeddings, modulation, norms, attention and the head compute as before. Behind it the names of the weights are the
    same, but their values can no longer be loaded or averaged.
    """
    if numbers is None:
        return
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # of torchao's, for torch's own developers
    from torchao.quantization import (  # 3 s to import
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        PerRow,
        quantize_,
    )

    config = Int8DynamicActivationInt8WeightConfig()
    if numbers == "fp8":
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    for block in network.blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = nn.Linear  # laid out for the CPU, it would bypass the quantised weight
        quantize_(block, config)
