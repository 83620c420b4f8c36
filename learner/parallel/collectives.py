"""Which of the learner's ranks this process is. Alone, without a process group, it is rank 0 of 1."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, distributed

Result = TypeVar("Result")


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """How many ranks train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_mean(values: Tensor) -> Tensor:
    """`values` averaged over the ranks, on each of them (a collective)."""
    if size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / size()


def all_gather_cat(values: Tensor) -> Tensor:
    """`values` [n ...] of every rank one after the other, [ranks * n ...], on each of them (a collective)."""
    if size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def all_reduce_max(number: int) -> int:
    """The largest of the ranks' numbers, on each of them (a collective)."""
    if size() == 1:
        return number
    told = _exchanged(number)
    distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
    return int(told.item())


def broadcast(number: int) -> int:
    """Rank 0's `number`, on every rank (a collective)."""
    if size() == 1:
        return number
    told = _exchanged(number)
    distributed.broadcast(told, src=0)
    return int(told.item())


def broadcast_bytes(content: bytes) -> bytes:
    """Rank 0's `content`, on every rank (a collective)."""
    if size() == 1:
        return content
    told = torch.zeros(broadcast(len(content)), dtype=torch.uint8)
    if rank() == 0:
        told = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    told = told.to(_device())
    distributed.broadcast(told, src=0)
    return told.cpu().numpy().tobytes()


def run_on_rank0(action: Callable[[], Result]) -> Result | None:
    """What `action` gives rank 0, None elsewhere; where it fails there, every rank stops (a collective)."""
    result: Result | None = None
    failure: Exception | None = None
    if rank() == 0:
        try:
            result = action()
        except Exception as error:  # raised below, when the others know
            failure = error
    if broadcast(int(failure is not None)):
        raise failure or RuntimeError(f"rank {rank()} stops because rank 0 failed; its own error says why")
    return result


def _exchanged(number: int) -> Tensor:
    return torch.tensor([number], dtype=torch.int64, device=_device())


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
