"""Cut batches into passes, step optimisers with clipping and a schedule, and reject non-finite updates."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from learner.parallel import collectives
from learner.parallel.shard_files import ShardFiles
from learner.parallel.sharding import copy_into_shards, full_tensor, is_sharded
from models.errors import StopsRun

Item = TypeVar("Item")


class NonFiniteError(StopsRun):
    """Stops a run whose loss or gradient is infinite or NaN; the weights are those of the last good update."""


def adamw(module: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> list[torch.optim.Optimizer]:
    """Make AdamW on all trainable weights, the paper's choice for distillation."""
    weights = trainable_parameters(module).values()
    return [torch.optim.AdamW(weights, lr=lr, betas=betas, weight_decay=weight_decay, foreach=True)]


def muon(module: nn.Module, lr: float, adamw_lr: float) -> list[torch.optim.Optimizer]:
    """Make Muon on the blocks' matrices and AdamW on the rest: for the stages that learn from data.

    The tiny teacher reaches AdamW's loss of 1300 updates in 600 (docs/decisions/LOG.md).
    """
    trained = trainable_parameters(module)
    matrices = [p for name, p in trained.items() if name.startswith("blocks.") and p.ndim == 2]
    rest = [p for name, p in trained.items() if not (name.startswith("blocks.") and p.ndim == 2)]
    kind = ShardedMuon if any(is_sharded(p) for p in matrices) else torch.optim.Muon
    return [
        kind(matrices, lr=lr, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=adamw_lr, betas=(0.9, 0.99), weight_decay=0.0, foreach=True),
    ]


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class ShardedMuon(torch.optim.Muon):
    """Runs torch's Muon on full matrices: gathers each, steps, and shards it again.

    Left to DTensor, its orthogonalisation in bfloat16 adds in another order for every number of ranks, and that noise
    is as large as the update: after one step weights differed by 0.7 of it. Every rank repeats the whole step,
    at the price of two or three gathers of each matrix.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            settings = {name: value for name, value in group.items() if name != "params"}
            for p in group["params"]:
                if p.grad is None:
                    continue
                matrix = nn.Parameter(full_tensor(p.detach()).clone())
                matrix.grad = full_tensor(p.grad)
                alone = torch.optim.Muon([matrix], **settings)
                for name, value in self.state[p].items():
                    alone.state[matrix][name] = full_tensor(value)
                alone.step()
                copy_into_shards(p, matrix)
                for name, value in alone.state[matrix].items():
                    copy_into_shards(self.state[p].setdefault(name, torch.zeros_like(p)), value)


def micro_batches(items: Sequence[Item], micro_batch: int | None) -> Iterator[Sequence[Item]]:
    """Cut `items`, a rank's share of a batch, into runs of `micro_batch`, one per pass; without, into one."""
    step = micro_batch or len(items)
    return (items[first : first + step] for first in range(0, len(items), step))


class Optimizer:
    """Steps a module's optimizers: backward, clip, check, schedule, step."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        lr_key: str,
        grad_clip: float,
        cosine_steps: int | None = None,
    ):
        """Name `lr_key`, the configuration key of the learning rate, in errors.

        With `cosine_steps` rates rise over a hundredth of them and fall to zero; without, they are constant.
        """
        self.name, self.module, self.optimizers = name, module, optimizers
        self.lr_key, self.grad_clip, self.cosine_steps = lr_key, grad_clip, cosine_steps
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.updates = 0
        self.lr_scale = 1.0
        """Factor on every learning rate."""

    def step(self, losses: Iterable[Tensor], passes: int = 1) -> dict[str, float]:
        """Apply the gradient of a batch; returns loss and gradient norm, of all ranks together.

        `losses` yields one scalar for each of `passes` micro-batches, so that one graph lives at a time. Their sum is
        the mean over this rank's share of the batch; the mean over the ranks, of equal shares, is computed here.
        Raises NonFiniteError on every rank, before the weights are touched, when loss or gradient is not finite.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        parts = []
        # FSDP averages over the ranks in each backward. Whole float32 gradients that wait on bfloat16 weights for the
        # last one would take 4 bytes per weight on every rank, and torch.compile breaks its graphs at them (GB0181).
        for loss in losses:
            loss.backward()
            parts.append(loss.detach())
        assert len(parts) == passes, f"{len(parts)} losses for {passes} micro-batches"
        norm = full_tensor(nn.utils.clip_grad_norm_(self.module.parameters(), self.grad_clip))
        loss_value, norm_value = torch.stack([collectives.all_reduce_mean(sum(parts)), norm]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            raise NonFiniteError(
                f"{self.name}: loss {loss_value} and gradient norm {norm_value} at update {self.updates + 1}; stopped "
                f"before the optimiser step, and the last checkpoint is good. Lower {self.lr_key} in a new run_dir"
            )
        schedule = 1.0
        if self.cosine_steps is not None:
            warm_up = max(1, self.cosine_steps // 100)
            done = min(1.0, (self.updates - warm_up) / max(1, self.cosine_steps - warm_up))
            schedule = 0.5 * (1 + math.cos(math.pi * done))
            if self.updates < warm_up:
                schedule = (self.updates + 1) / warm_up
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * self.lr_scale * schedule
            optimizer.step()
        self.updates += 1
        return {f"{self.name}/loss": loss_value, f"{self.name}/grad_norm": norm_value}

    def state(self) -> dict[str, Tensor]:
        """Return moments and counts by "<weight>/<entry>", on every rank its shards; the next step changes them."""
        names = {p: name for name, p in self.module.named_parameters()}
        return {
            f"{names[p]}/{entry}": value
            for optimizer in self.optimizers
            for p, entries in optimizer.state.items()
            for entry, value in entries.items()
        }

    def load_state(self, saved: ShardFiles, updates: int) -> None:
        """Read the result of `state`, on any number of ranks. Raises ValueError for that of another network."""
        parameters = dict(self.module.named_parameters())
        owners = {p: one for one in self.optimizers for group in one.param_groups for p in group["params"]}
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for path, stored in saved.stored.items():
            name, entry = path.rsplit("/", 1)
            p = parameters.get(name)
            if p is None or p not in owners:
                raise ValueError(f"the checkpoint is of another network: it has the unknown {path}")
            if entry == "step":  # a count, which optimisers keep on the CPU
                owners[p].state[p][entry] = torch.zeros((), dtype=stored.dtype)
            else:
                owners[p].state[p][entry] = torch.zeros_like(p, dtype=stored.dtype, requires_grad=False)
        saved.read_into(self.state())
        self.updates = updates
