"""Compute the products of networks without training on a CPU from weights that are laid out for them once."""

import ctypes
from functools import cache

import torch
from torch import Tensor, nn

_LEAST = 2**18
"""Numbers in a weight from which on a layout pays: 512 x 512."""
_MOST_BYTES = 256 * 2**20
"""Most bytes of weights of a network that are laid out: they take this memory once more."""
_LEAST_ROWS = 32
_KEPT_BYTES = 128 * 2**20
_LARGEST_BYTES = 32 * 2**20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


class LaidOutLinear(nn.Linear):
    """Multiplies by a weight in oneDNN's own layout, made once per version of the weight.

    Torch multiplies float32 by MKL, which copies the weight into panels in every call. Names and results are those of
    `Linear`, to rounding. With gradient, in compiled code and for a few rows it is `Linear` itself. The layout takes
    the weight's memory once more.
    """

    _layout: tuple[Tensor, int, Tensor] | None = None
    """The weight that was laid out last, its version, and the result."""

    def forward(self, x: Tensor) -> Tensor:
        weight, rows = self.weight, x.shape[:-1].numel()
        if torch.is_grad_enabled() or weight.device.type != "cpu" or rows < _LEAST_ROWS:
            return super().forward(x)
        if torch.compiler.is_compiling() or x.dtype != weight.dtype:
            return super().forward(x)
        layout, version = self._layout, weight._version
        # Assigning another weight changes its identity, writing it in place a count.
        if layout is None or layout[0] is not weight or layout[1] != version:
            layout = self._layout = weight, version, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
        return torch.ops.mkldnn._linear_pointwise(x, layout[2], self.bias, "none", [], "")


def lay_out_products(network: nn.Module) -> None:
    """Let the large products of a network compute from laid-out weights."""
    for module in products_to_lay_out(network):
        module.__class__ = LaidOutLinear  # in place: parents, names and weights stay


def products_to_lay_out(network: nn.Module) -> list[nn.Linear]:
    """List the large products of a network, where torch has layouts for this CPU and they take little memory.

    Wan 1.3B stays as it is: it would hold its weights twice.
    """
    dtype = next(network.parameters()).dtype
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if not known or dtype not in (torch.float32, torch.bfloat16):
        return []
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return []
    large = [m for m in network.modules() if type(m) is nn.Linear and m.weight.numel() >= _LEAST]
    return large if sum(module.weight.nbytes for module in large) <= _MOST_BYTES else []


@cache
def keep_freed_memory() -> None:
    """Keep up to 128 MB of freed memory in this process, on Linux with glibc.

    Otherwise glibc returns each large activation to the kernel, which hands out its pages anew, one fault for each
    4 KB, in every layer: a seventh of the time of a feed-forward.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
