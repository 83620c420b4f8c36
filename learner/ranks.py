"""Which of the learner's ranks this process is. Alone, without a process group, it is rank 0 of 1."""

import torch
from torch import Tensor, distributed


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """How many ranks train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def mean(values: Tensor) -> Tensor:
    """`values` averaged over the ranks, on each of them (a collective)."""
    if size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / size()


def joined(values: Tensor) -> Tensor:
    """`values` [n ...] of every rank one after the other, [ranks * n ...], on each of them (a collective)."""
    if size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def largest(number: int) -> int:
    """The largest of the ranks' numbers, on each of them (a collective)."""
    if size() == 1:
        return number
    told = _exchanged(number)
    distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
    return int(told.item())


def agreed(number: int) -> int:
    """Rank 0's `number`, on every rank (a collective)."""
    if size() == 1:
        return number
    told = _exchanged(number)
    distributed.broadcast(told, src=0)
    return int(told.item())


def _exchanged(number: int) -> Tensor:
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    return torch.tensor([number], dtype=torch.int64, device=device)
