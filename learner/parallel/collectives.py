"""Call collectives among the learner's ranks. Without a process group a process is rank 0 of 1.

The ranks are a mesh [data, sequence]: the ranks of a row share the tokens of the same windows, and each row has a share
of a batch. Until `split_sequences` is called, every rank is a row.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from models.noise import to_device

Result = TypeVar("Result")
Columns = TypeVar("Columns", bound=NamedTuple)
"""Named columns, each [n]."""

_mesh: DeviceMesh | None = None
"""Mesh [data, sequence] of the process group; None where every rank is a row."""


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Count the ranks that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def split_sequences(ranks: int) -> None:
    """Let each `ranks` neighbours share the tokens of windows, from now on (a collective)."""
    global _mesh
    _mesh = None
    if ranks > 1:
        _mesh = init_device_mesh(_device().type, (size() // ranks, ranks), mesh_dim_names=("data", "sequence"))


def sequence_group() -> ProcessGroup | None:
    """Return the ranks that share the tokens of this rank's windows; None where it has all tokens."""
    return None if _mesh is None else _mesh.get_group("sequence")


def data_rank() -> int:
    """Return the number, from 0, of this rank's share of a batch."""
    return rank() if _mesh is None else _mesh.get_local_rank("data")


def data_size() -> int:
    """Count the shares of a batch."""
    return size() if _mesh is None else _mesh.size(0)


def own_places(size: int) -> range:
    """Return this rank's places in a whole batch of `size`: contiguous, in the order of the data ranks."""
    share = size // data_size()
    return range(data_rank() * share, (data_rank() + 1) * share)


def all_reduce_mean(values: Tensor) -> Tensor:
    """Average `values` over the ranks, on each of them (a collective)."""
    if size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / size()


def all_gather_cat(values: Tensor) -> Tensor:
    """Concatenate the `values` [n ...] of all shares of a batch, in their order, on each rank (a collective)."""
    if data_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(data_size())]
    distributed.all_gather(parts, values.contiguous(), group=None if _mesh is None else _mesh.get_group("data"))
    return torch.cat(parts)


def all_gather_columns(parts: Sequence[Columns]) -> Columns:
    """Concatenate columns over `parts`, then over the shares of a batch, on each rank's CPU (a collective).

    The GPU is waited for once, and not by every metric that is computed from them.
    """
    table = torch.cat([torch.stack(part, dim=1) for part in parts])
    return type(parts[0])(*all_gather_cat(table).cpu().unbind(dim=1))


def all_reduce_max(number: int) -> int:
    """Return the largest of the ranks' numbers, on each of them (a collective)."""
    if size() == 1:
        return number
    value = to_device(torch.tensor([number]), _device())
    distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    return int(value.item())


def broadcast(number: int) -> int:
    """Return rank 0's `number` on every rank (a collective)."""
    if size() == 1:
        return number
    value = to_device(torch.tensor([number]), _device())
    distributed.broadcast(value, src=0)
    return int(value.item())


def broadcast_bytes(content: bytes) -> bytes:
    """Return rank 0's `content` on every rank (a collective)."""
    if size() == 1:
        return content
    values = torch.zeros(broadcast(len(content)), dtype=torch.uint8)
    if rank() == 0:
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    values = values.to(_device())
    distributed.broadcast(values, src=0)
    return values.cpu().numpy().tobytes()


def all_gather_text(text: str) -> list[str]:
    """Return the texts of all ranks, in their order, on each of them (a collective)."""
    if size() == 1:
        return [text]
    content = text.encode()
    padded = torch.tensor(list(content.ljust(all_reduce_max(len(content)), b"\0")), dtype=torch.uint8, device=_device())
    parts = [torch.empty_like(padded) for _ in range(size())]
    distributed.all_gather(parts, padded)
    return [bytes(part.tolist()).rstrip(b"\0").decode() for part in parts]


def run_on_all(action: Callable[[], Result]) -> Result:
    """Return the result of `action`; its failure on any rank stops every rank (a collective, `action` is none)."""
    result: Result | None = None
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:  # raised below, when the others know
        failure = error
    if above := all_reduce_max(0 if failure is None else size() - rank()):
        raise failure or RuntimeError(
            f"rank {rank()} stops because rank {size() - above} failed; its own error says why"
        )
    return result


def run_on_rank0(action: Callable[[], Result]) -> Result | None:
    """Return the result of `action` on rank 0, None elsewhere; its failure stops every rank (a collective)."""
    return run_on_all(lambda: action() if rank() == 0 else None)


def _device() -> torch.device:
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
