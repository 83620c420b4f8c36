"""Select the attention kernel."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from models.wan import flash_attention


@dataclass(frozen=True)
class Visibility:
    """Holds a block mask as slices: each span is (its queries, the key slices that they see), in tokens.

    A causal window mask is empty almost everywhere, and dense inside its blocks. Attending span by span costs only the
    visible part, needs no L x L mask in memory, and each span runs the unmasked (flash) kernel. `masks` holds one
    [B 1 1 keys] boolean per span, or None where every sample of the batch sees all of the span's keys.
    """

    spans: tuple[tuple[slice, tuple[slice, ...]], ...]
    masks: tuple[Tensor | None, ...]


def attend(queries: Tensor, keys: Tensor, values: Tensor, visibility: Visibility | None = None) -> Tensor:
    """Compute attention [B Lq H d] of `queries` [B Lq H d] over `keys` and `values` [B Lk H d].

    Without `visibility` every query sees every key.
    """
    if visibility is None:
        return _attend(queries, keys, values, None)
    out = []
    for (rows, columns), mask in zip(visibility.spans, visibility.masks, strict=True):
        parts = ([x[:, column] for column in columns] for x in (keys, values))
        seen_keys, seen_values = (part[0] if len(part) == 1 else torch.cat(part, dim=1) for part in parts)
        out.append(_attend(queries[:, rows], seen_keys, seen_values, mask))
    return torch.cat(out, dim=1)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None and flash_attention.supports(queries, keys):
        module = flash_attention.selected_module()
        if module is not None:
            return flash_attention.flash_attend(module, queries, keys, values)
    out = scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)
