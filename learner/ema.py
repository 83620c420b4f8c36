"""The averaged student: what is evaluated and shipped. Actors never see it: they roll out the raw student."""

import torch
from torch import Tensor, nn

from learner.parallel.sharding import local_shards


class Ema:
    """Exponential moving average of the weights that train, cut over the ranks as they are."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.averages: dict[str, Tensor] = {name: p.detach().clone() for name, p in _trained(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """average <- decay * average + (1 - decay) * weights."""
        torch._foreach_lerp_(
            local_shards(self.averages.values()), local_shards(_trained(module).values()), 1 - self.decay
        )

    @torch.no_grad()
    def restart(self, module: nn.Module) -> None:
        """Begin again from `module`'s weights."""
        torch._foreach_copy_(local_shards(self.averages.values()), local_shards(_trained(module).values()))


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
