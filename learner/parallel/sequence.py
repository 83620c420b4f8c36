"""Split the tokens of a window over ranks: Ulysses sequence parallelism (arXiv:2309.14509)."""

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.nn import functional

from models.wan.token_layout import TokenLayout


@dataclass(frozen=True)
class Ulysses(TokenLayout):
    """Gives each rank of a group a share of every frame's tokens, and inside self-attention a share of the heads.

    All ranks have all frames, so timesteps and their modulations need no split. Where P is no multiple of the ranks,
    frames are filled up with zeros, which attention never sees. Gradients are those of the sum of the ranks' losses.
    The ranks of a group compute one and the same loss, so FSDP's mean over all ranks is the mean over all windows.
    """

    group: ProcessGroup

    def split(self, x: Tensor) -> Tensor:
        ranks = self.group.size()
        return functional.pad(x, (0, 0, 0, -x.shape[2] % ranks)).chunk(ranks, dim=2)[self.group.rank()]

    def gather(self, x: Tensor, tokens: int) -> Tensor:
        # As if there were one head for each rank, all of them equal: every rank gets one.
        heads = x.unsqueeze(3).expand(*x.shape[:3], self.group.size(), x.shape[3])
        return self.to_heads(heads, tokens).squeeze(2).unflatten(1, (x.shape[1], tokens))

    def to_heads(self, x: Tensor, tokens: int) -> Tensor:
        sent = rearrange(x, "b f p (n h) d -> n b f p h d", n=self.group.size()).contiguous()
        # The result waits at its first use; waiting here is differentiable in the newest torch only.
        received = all_to_all_single_autograd(sent, None, None, self.group)
        return rearrange(received, "n b f p h d -> b f (n p) h d")[:, :, :tokens].flatten(1, 2)

    def to_tokens(self, x: Tensor, frames: int) -> Tensor:
        ranks, tokens = self.group.size(), x.unflatten(1, (frames, -1))
        filled = functional.pad(tokens, (0, 0, 0, 0, 0, -tokens.shape[2] % ranks))
        sent = rearrange(filled, "b f (n p) h d -> n b f p h d", n=ranks).contiguous()
        received = all_to_all_single_autograd(sent, None, None, self.group)
        return rearrange(received, "n b f p h d -> b f p (n h) d")
