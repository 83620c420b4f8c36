"""The parts of a Wan block. Module names are those of diffusers, so that its state dicts load unchanged.

Hidden states are [B F P D]: P tokens of one latent frame. Keeping frames apart lets each have its own timestep
([B F 1 D] modulation) without repeating it over tokens.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.wan.attention import Visibility, attend
from models.wan.rope import rotate

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [B L H head_dim], keys rotated to their absolute positions."""

Segments = tuple[KeysValues, ...]
"""What one layer remembers, oldest first. A segment of one row is shared by the whole batch."""


def at_least_float32(x: Tensor) -> Tensor:
    """Leave float32 and float64 alone, raise anything smaller: norms and gates of Wan are float32 islands."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def join(segments: Segments) -> KeysValues:
    """The segments one after the other, as one; only here is a row that the batch shares copied, for this layer."""
    if len(segments) == 1:
        return segments[0]
    rows = max(len(keys) for keys, _ in segments)
    keys, values = (
        torch.cat([part.expand(rows, *part.shape[1:]) for part in parts], dim=1)
        for parts in zip(*segments, strict=True)
    )
    return keys, values


class LayerNorm(nn.LayerNorm):
    """Layer norm computed in at least float32, as in diffusers' `FP32LayerNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Attention(nn.Module):
    """Projections of one attention, with RMS norms of queries and keys over all heads together."""

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
        """[B L D] -> [B L H head_dim]."""
        return self.norm_q(self.to_q(x)).unflatten(-1, (self.heads, -1))

    def keys_values(self, x: Tensor) -> KeysValues:
        """[B L D] -> keys and values, each [B L H head_dim]."""
        keys = self.norm_k(self.to_k(x)).unflatten(-1, (self.heads, -1))
        return keys, self.to_v(x).unflatten(-1, (self.heads, -1))

    def output(self, attended: Tensor) -> Tensor:
        """[B L H head_dim] -> [B L D]."""
        return self.to_out[0](attended.flatten(-2))


class _GeluTanh(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """D -> ffn_dim -> D; the index 1 of diffusers' list is its dropout, which Wan does not use."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.net = nn.ModuleList([_GeluTanh(dim, inner), nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class _TwoLinear(nn.Module):
    def __init__(self, dim_in: int, dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)


class ConditionEmbedder(nn.Module):
    """Timesteps and text to the width of the network."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int):
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = _TwoLinear(freq_dim, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = _TwoLinear(text_dim, dim)

    def time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps [B F] in [0, 1000] -> embedding [B F D] and the six modulations of a block [B F 6 D]."""
        half = self.freq_dim // 2
        exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
        angles = at_least_float32(timestep)[..., None] * torch.exp(-math.log(10_000.0) * exponents)
        weight = self.time_embedder.linear_1.weight
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(weight.dtype)
        embedding = self.time_embedder.linear_2(functional.silu(self.time_embedder.linear_1(sinusoid)))
        embedding = embedding.to(self.time_proj.weight.dtype)
        return embedding, self.time_proj(functional.silu(embedding)).unflatten(-1, (6, -1))

    def text(self, text: Tensor) -> Tensor:
        """Text embeddings [B S text_dim] -> [B S D]. Zeroed padding rows are kept: Wan attends to them."""
        text = text.to(self.text_embedder.linear_1.weight.dtype)
        hidden = functional.gelu(self.text_embedder.linear_1(text), approximate="tanh")
        return self.text_embedder.linear_2(hidden)


class Block(nn.Module):
    """One transformer block: modulated self-attention, cross-attention to the text, modulated feed-forward."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, eps: float, cross_attn_norm: bool):
        super().__init__()
        self.norm1 = LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, eps)
        self.norm2 = LayerNorm(dim, eps) if cross_attn_norm else nn.Identity()
        self.attn2 = Attention(dim, heads, eps)
        self.norm3 = LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, ffn_dim)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def modulation(self, time: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention, then of the feed-forward, each [B F 1 D]."""
        return (self.scale_shift_table + at_least_float32(time)).unsqueeze(3).unbind(2)

    def text_keys_values(self, text: Tensor) -> KeysValues:
        """Keys and values of cross-attention for embedded text [B S D]."""
        return self.attn2.keys_values(text)

    def self_keys_values(self, hidden: Tensor, time: Tensor, rotary: tuple[Tensor, Tensor]) -> KeysValues:
        """Only the keys and values of self-attention: all that the cache needs of the last layer."""
        shift, scale, *_ = self.modulation(time)
        keys, values = self.attn1.keys_values(self._modulate(self.norm1(hidden), shift, scale, hidden).flatten(1, 2))
        return rotate(keys, rotary), values

    def forward(
        self,
        hidden: Tensor,
        time: Tensor,
        text: KeysValues,
        rotary: tuple[Tensor, Tensor],
        past: Segments = (),
        visibility: Visibility | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Hidden states [B F P D] after the block, and the keys and values that they made in self-attention.

        `past` keys and values stand before the block's own; `visibility` counts from the first of them.
        """
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(time)
        frames_tokens = hidden.shape[1:3]

        x = self._modulate(self.norm1(hidden), shift, scale, hidden).flatten(1, 2)
        queries = rotate(self.attn1.queries(x), rotary)
        keys, values = self.attn1.keys_values(x)
        keys = rotate(keys, rotary)
        all_keys, all_values = join((*past, (keys, values)))
        attended = self.attn1.output(attend(queries, all_keys, all_values, visibility)).unflatten(1, frames_tokens)
        hidden = (at_least_float32(hidden) + attended * gate).type_as(hidden)

        x = self.norm2(hidden).type_as(hidden).flatten(1, 2)
        hidden = hidden + self.attn2.output(attend(self.attn2.queries(x), *text)).unflatten(1, frames_tokens)

        x = self._modulate(self.norm3(hidden), ffn_shift, ffn_scale, hidden)
        hidden = (at_least_float32(hidden) + at_least_float32(self.ffn(x)) * ffn_gate).type_as(hidden)
        return hidden, (keys, values)

    @staticmethod
    def _modulate(normed: Tensor, shift: Tensor, scale: Tensor, like: Tensor) -> Tensor:
        return (normed * (1 + scale) + shift).type_as(like)
