"""The averaged student: what is evaluated and shipped. Actors never see it: they roll out the raw student."""

import copy

import torch
from torch import nn


class Ema:
    """Exponential moving average of a module's weights, kept as a module of its own."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """average <- decay * average + (1 - decay) * weights."""
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - self.decay)

    @torch.no_grad()
    def restart(self, module: nn.Module) -> None:
        """Begin again from `module`'s weights."""
        torch._foreach_copy_(list(self.module.parameters()), list(module.parameters()))
