"""Say which tokens of a pass a process computes."""

from torch import Tensor


class TokenLayout:
    """Lays out the tokens of a pass on processes: here one computes all P tokens of every frame, in all H heads.

    Over ranks (learner/parallel/sequence.py) each has p tokens of every frame in all heads, and inside self-attention
    all tokens in h heads. Keys and values of the past have the second layout, so caches and block masks count all
    tokens, and need not know of ranks.
    """

    def split(self, x: Tensor) -> Tensor:
        """Return this process's tokens [B F p C] of `x` [B F P C], which every process has."""
        return x

    def gather(self, x: Tensor, tokens: int) -> Tensor:
        """Return all P = `tokens` of every frame [B F P C], on every process, of each one's `x` [B F p C]."""
        return x

    def to_heads(self, x: Tensor, tokens: int) -> Tensor:
        """Return all P = `tokens` of every frame in this process's heads, [B F*P h d], of `x` [B F p H d]."""
        return x.flatten(1, 2)

    def to_tokens(self, x: Tensor, frames: int) -> Tensor:
        """Return this process's tokens of F = `frames` in all heads, [B F p H d], of `x` [B F*P h d]."""
        return x.unflatten(1, (frames, -1))
