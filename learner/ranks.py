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


def agreed(number: int) -> int:
    """Rank 0's `number`, on every rank (a collective)."""
    if size() == 1:
        return number
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    told = torch.tensor([number], dtype=torch.int64, device=device)
    distributed.broadcast(told, src=0)
    return int(told.item())
