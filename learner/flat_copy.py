"""A network's whole weights in one piece of memory: what is published again and again."""

from collections.abc import Mapping

import torch
from torch import Tensor

from learner.parallel import collectives
from learner.parallel.sharding import full_tensor

_ALIGNMENT = 64


class FlatCopy:
    """Memory for one copy of a network's tensors on rank 0, used again for every version.

    New memory would cost three times the copy itself in page faults, and one large array travels almost twice as fast
    as many small ones (benchmarks/weight_sync.py).
    """

    def __init__(self, like: Mapping[str, Tensor]):
        self.tensors: dict[str, Tensor] = {}
        if collectives.rank() > 0:
            return
        places = {}
        end = 0
        for name, tensor in like.items():
            first = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = first + tensor.numel() * tensor.element_size()
            places[name] = slice(first, end)
        pinned = any(tensor.is_cuda for tensor in like.values())
        buffer = torch.zeros(end, dtype=torch.uint8, pin_memory=pinned)
        self.tensors = {
            name: buffer[places[name]].view(tensor.dtype).view(tensor.shape) for name, tensor in like.items()
        }

    @torch.no_grad()
    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole values on the CPU of rank 0, an empty dict elsewhere (a collective). Overwrites the last call's."""
        for name, tensor in tensors.items():
            complete = full_tensor(tensor)
            if self.tensors:
                self.tensors[name].copy_(complete.detach())
        return self.tensors
