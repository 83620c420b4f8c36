"""Call flash-attn, where installed, for unmasked attention in half precision on a GPU.

Version 3 is the module flash_attn_interface, for Hopper; version 2 is flash_attn, for Ampere and Ada.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

_VERSION_3, _VERSION_2 = "flash_attn_interface", "flash_attn"
_HALF = (torch.float16, torch.bfloat16)
_HEAD_DIM = 256
"""The largest that either version has a kernel for."""

_loaded: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]] = {}
"""Functions by module, for compiled code too, which cannot import."""
_selected: list[str | None] = []
"""Module for the GPU of this process, set at its first use."""


def select_module(installed: Callable[[str], bool], capability: tuple[int, int]) -> str | None:
    """Return the module with the best kernel for a GPU of this compute capability; None for torch's own.

    From Hopper on torch takes cuDNN's kernels by itself, which version 2 does not reach: 370 against 595 TFLOP/s on an
    H100, and version 3 has 648 (FlashAttention-3, arXiv 2407.08608, head 128, 16k tokens).
    """
    if capability[0] == 9 and installed(_VERSION_3):
        return _VERSION_3
    return _VERSION_2 if capability[0] == 8 and installed(_VERSION_2) else None


def supports(queries: Tensor, keys: Tensor) -> bool:
    """Return whether a kernel takes these: unlike torch's, it does not repeat a row that a batch shares."""
    return (
        queries.device.type == "cuda"
        and queries.dtype in _HALF
        and queries.shape[-1] <= _HEAD_DIM
        and len(queries) == len(keys)
    )


def selected_module() -> str | None:
    """Return the module for the GPU of this process, selected at the first call."""
    if not _selected:
        # Not at import: asking for the GPU starts CUDA, in processes too that only read configurations.
        name = select_module(lambda module: find_spec(module) is not None, torch.cuda.get_device_capability())
        if name is not None:
            _loaded[name] = import_module(name).flash_attn_func
        _selected.append(name)
    return _selected[0]


def flash_attend(module: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend by `module` with `queries` [B Lq H d] over `keys` and `values` [B Lk H d]; the result is [B Lq H d]."""
    out = _loaded[module](queries, keys, values)
    return out[0] if isinstance(out, tuple) else out  # early releases of version 3 give the log of the sums too
