"""Where, and in what, a network computes that nobody trains."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.network_config import WanConfig
from models.wan.network import Wan


@dataclass(frozen=True)
class ComputeSpec:
    """A device, the dtype of weights, keys and values on it, and whether blocks are compiled."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    compiled: bool = False

    def outline(self, config: WanConfig) -> Wan:
        """A network on "meta", to be given weights: before them it takes no memory, on the host neither."""
        with torch.device("meta"):
            network = Wan(config).to(self.dtype).eval().requires_grad_(False)
        if self.compiled:
            network.compile_blocks()
        return network

    def cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in the dtype that they are computed with; no copies where they have it."""
        return {name: tensor.to(self.dtype) for name, tensor in tensors.items()}
