"""Keep the results of self-attention under activation checkpointing, which recomputes the rest of a block."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext, create_selective_checkpoint_contexts

_KERNELS = frozenset({
    "aten::_scaled_dot_product_cudnn_attention", "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_flash_attention_for_cpu",
    "flash_attn::_flash_attn_forward", "flash_attn_3::_flash_attn_forward", "flash_attn_3::fwd",
})  # fmt: skip
"""Operators that return attention [B H Lq d] or [B Lq H d] and the logarithm of its sums, by torch and flash-attn."""


def keep_attention() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of a block's forward pass and of its recomputation, for `torch.utils.checkpoint`.

    In compiled blocks too: there the kernels of attention stay calls of these operators.
    """
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: SelectiveCheckpointContext, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Keep attention over at least as many keys as queries: that to the text costs less than its result holds."""
    if isinstance(operator, torch._ops.OpOverload) and operator.name().partition(".")[0] in _KERNELS:
        queries, keys = arguments[:2]
        if isinstance(queries, Tensor) and keys.numel() >= queries.numel():
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
