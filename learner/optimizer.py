"""AdamW with clipping, a schedule, and the check that a broken update is never applied."""

import math

import torch
from torch import Tensor, nn


class NonFiniteError(RuntimeError):
    """A loss or gradient became infinite or NaN; the weights are those of the last good update."""


class Optimizer:
    """Backward, clip, check, step."""

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        grad_clip: float,
        cosine_steps: int | None = None,
    ):
        """With `cosine_steps` the rate rises over 5 % of them and falls to zero; without, it is constant."""
        self.name, self.module, self.lr, self.grad_clip, self.cosine_steps = name, module, lr, grad_clip, cosine_steps
        self.adamw = torch.optim.AdamW(module.parameters(), lr=lr, betas=betas, weight_decay=weight_decay, foreach=True)
        self.updates = 0

    def step(self, loss: Tensor) -> dict[str, float]:
        """Apply the gradient of `loss`; returns loss and gradient norm.

        Raises NonFiniteError before the weights are touched when either is not finite.
        """
        self.adamw.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.grad_clip)
        loss_value, norm_value = torch.stack([loss.detach(), norm]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            raise NonFiniteError(
                f"{self.name}: loss {loss_value} and gradient norm {norm_value} at update {self.updates}; stopped before "
                f"the optimiser step. Lower {self.name}'s learning rate or look at the windows of this update"
            )
        for group in self.adamw.param_groups:
            group["lr"] = self.lr * self._schedule()
        self.adamw.step()
        self.updates += 1
        return {f"{self.name}/loss": loss_value, f"{self.name}/grad_norm": norm_value}

    def _schedule(self) -> float:
        if self.cosine_steps is None:
            return 1.0
        warm_up = max(1, self.cosine_steps // 20)
        if self.updates < warm_up:
            return (self.updates + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (self.updates - warm_up) / max(1, self.cosine_steps - warm_up)))

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts as flat tensors, for safetensors."""
        names = [name for name, _ in self.module.named_parameters()]
        states = self.adamw.state_dict()["state"]
        return {f"{names[i]}/{entry}": value for i, state in states.items() for entry, value in state.items()}

    def load_state(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Put back what `state` gave."""
        index = {name: i for i, (name, _) in enumerate(self.module.named_parameters())}
        whole = self.adamw.state_dict()
        whole["state"] = {}
        for path, value in tensors.items():
            name, entry = path.rsplit("/", 1)
            whole["state"].setdefault(index[name], {})[entry] = value
        self.adamw.load_state_dict(whole)
        self.updates = updates
