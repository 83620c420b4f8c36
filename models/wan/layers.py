"""Define the layers of a Wan block. Module names are those of diffusers, so that its state dicts load unchanged.

Hidden states are [B F P D]: P tokens of one latent frame, or this process's p of them (see `TokenLayout`). Keeping
frames apart lets each have its own timestep ([B F 1 D] modulation) without repeating it over tokens.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.wan.attention import Visibility, attend
from models.wan.rope import rotate
from models.wan.token_layout import TokenLayout

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [B L H head_dim]; keys are rotated to their absolute positions."""

Segments = tuple[KeysValues, ...]
"""Keys and values of one layer's past, oldest first. A segment of one row is shared by the whole batch."""


class RollingPast(NamedTuple):
    """Views the buffers of one layer of a rolling cache, [B H tokens head_dim]: the past, then the block's own place.

    Only passes without gradient may write there.
    """

    keys: Tensor
    values: Tensor

    def joined(self, own: KeysValues) -> KeysValues:
        """Write a block's `own` keys and values in their place, and return all, [B tokens H head_dim]."""
        for held, part in zip(self, own, strict=True):
            held[:, :, -part.shape[1] :].copy_(part.transpose(1, 2))
        return self.keys.transpose(1, 2), self.values.transpose(1, 2)


def at_least_float32(x: Tensor) -> Tensor:
    """Cast smaller dtypes than float32 up: norms and gates of Wan are float32 islands."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def join(segments: Segments) -> KeysValues:
    """Concatenate segments along tokens; only here a row that the batch shares is copied, for this layer."""
    if len(segments) == 1:
        return segments[0]
    rows = max(len(keys) for keys, _ in segments)
    keys, values = (
        torch.cat([part.expand(rows, *part.shape[1:]) for part in parts], dim=1)
        for parts in zip(*segments, strict=True)
    )
    return keys, values


class LayerNorm(nn.LayerNorm):
    """Computes layer norm in at least float32, as diffusers' `FP32LayerNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Attention(nn.Module):
    """Projects queries, keys and values of one attention, with RMS norms over all heads together."""

    def __init__(self, dim: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)

    def queries(self, x: Tensor) -> Tensor:
        """Compute queries [... H head_dim] of [... D]."""
        return self.norm_q(self.to_q(x)).unflatten(-1, (self.heads, -1))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Compute keys and values of [... D], each [... H head_dim]."""
        keys = self.norm_k(self.to_k(x)).unflatten(-1, (self.heads, -1))
        return keys, self.to_v(x).unflatten(-1, (self.heads, -1))


class FeedForward(nn.Module):
    """Maps D -> ffn_dim -> D; the index 1 of diffusers' list is its dropout, which Wan does not use."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        first = nn.ModuleDict({"proj": nn.Linear(dim, inner)})
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """Map [... D] to [... D]."""
        return self.net[2](functional.gelu(self.net[0]["proj"](x), approximate="tanh"))


class ConditionEmbedder(nn.Module):
    """Embeds timesteps and text in the width D of the network."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int):
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = nn.ModuleDict({"linear_1": nn.Linear(freq_dim, dim), "linear_2": nn.Linear(dim, dim)})
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = nn.ModuleDict({"linear_1": nn.Linear(text_dim, dim), "linear_2": nn.Linear(dim, dim)})

    def time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Embed timesteps [B F] in [0, 1000]: embedding [B F D] and the six modulations of a block [B F 6 D]."""
        half = self.freq_dim // 2
        exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
        angles = at_least_float32(timestep)[..., None] * torch.exp(-math.log(10_000.0) * exponents)
        first, second = self.time_embedder.values()
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(first.weight.dtype)
        embedding = second(functional.silu(first(sinusoid)))
        embedding = embedding.to(self.time_proj.weight.dtype)
        return embedding, self.time_proj(functional.silu(embedding)).unflatten(-1, (6, -1))

    def text(self, text: Tensor) -> Tensor:
        """Embed text [B S text_dim] as [B S D]. Zeroed padding rows are kept: Wan attends to them."""
        first, second = self.text_embedder.values()
        return second(functional.gelu(first(text.to(first.weight.dtype)), approximate="tanh"))


def modulation_table(rows: int, dim: int) -> nn.Parameter:
    """Draw a learned table of shifts, scales and gates [1 rows D]."""
    table = torch.empty(1, rows, dim)
    # A normal draw on "meta" imports sympy, half a second at the start of each process of a run.
    return nn.Parameter(table if table.is_meta else table.normal_().div_(dim**0.5))


class Block(nn.Module):
    """Applies modulated self-attention, cross-attention to the text, and a modulated feed-forward."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float, cross_attn_norm: bool):
        super().__init__()
        self.norm1 = LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, eps)
        self.norm2 = LayerNorm(dim, eps) if cross_attn_norm else nn.Identity()
        self.attn2 = Attention(dim, heads, eps)
        self.norm3 = LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, ffn_dim)
        self.scale_shift_table = modulation_table(6, dim)
        self.layout = TokenLayout()

    def modulation(self, time: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale and gate of self-attention, then of the feed-forward, each [B F 1 D]."""
        return (self.scale_shift_table + at_least_float32(time)).unsqueeze(3).unbind(2)

    def text_keys_values(self, text: Tensor) -> KeysValues:
        """Return keys and values of cross-attention for embedded text [B S D]."""
        return self.attn2.keys_values(text)

    def self_keys_values(self, hidden: Tensor, time: Tensor, rotary: tuple[Tensor, Tensor]) -> KeysValues:
        """Return only the keys and values of self-attention: the cache needs no more of the last layer."""
        shift, scale, *_ = self.modulation(time)
        x, tokens = self._modulate(self.norm1(hidden), shift, scale, hidden), rotary[0].shape[-3] // hidden.shape[1]
        keys, values = (self.layout.to_heads(part, tokens) for part in self.attn1.keys_values(x))
        return rotate(keys, rotary), values

    def forward(
        self,
        hidden: Tensor,
        time: Tensor,
        text: KeysValues,
        rotary: tuple[Tensor, Tensor],
        past: Segments | RollingPast = (),
        visibility: Visibility | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return hidden states [B F P D] after the block, and all tokens' keys and values of self-attention.

        `past` keys and values precede the block's own; `visibility` counts from the first of them.
        """
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(time)
        frames, tokens = hidden.shape[1], rotary[0].shape[-3] // hidden.shape[1]

        x = self._modulate(self.norm1(hidden), shift, scale, hidden)
        projected = self.attn1.queries(x), *self.attn1.keys_values(x)
        queries, keys, values = (self.layout.to_heads(part, tokens) for part in projected)
        own = rotate(keys, rotary), values
        every = past.joined(own) if isinstance(past, RollingPast) else join((*past, own))
        attended = attend(rotate(queries, rotary), *every, visibility)
        attended = self.attn1.to_out[0](self.layout.to_tokens(attended, frames).flatten(-2))
        hidden = (at_least_float32(hidden) + attended * gate).type_as(hidden)

        x = self.norm2(hidden).type_as(hidden).flatten(1, 2)
        attended = attend(self.attn2.queries(x), *text).flatten(-2)
        hidden = hidden + self.attn2.to_out[0](attended).unflatten(1, hidden.shape[1:3])

        x = self._modulate(self.norm3(hidden), ffn_shift, ffn_scale, hidden)
        hidden = (at_least_float32(hidden) + at_least_float32(self.ffn(x)) * ffn_gate).type_as(hidden)
        return hidden, own

    @staticmethod
    def _modulate(normed: Tensor, shift: Tensor, scale: Tensor, like: Tensor) -> Tensor:
        return (normed * (1 + scale) + shift).type_as(like)
