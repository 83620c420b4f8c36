"""Shard a network over the ranks (FSDP2), and gather full tensors for files and actors.

Without a process group every tensor is full already and these functions copy, so that callers have one path.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, distributed

from learner.parallel import collectives
from learner.parallel.host_memory import side_by_side
from models.wan.network import Wan

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(network: Wan, device: torch.device, compute: torch.dtype | None = None, offload: bool = False) -> None:
    """Shard every block over all ranks, then the rest, and split its tokens; weights may still be on "meta".

    Computes in `compute` (default: as stored) and reduces gradients in float32. With `offload` shards live on the CPU.
    """
    alone = collectives.size() == 1 and compute is None and not offload
    if not distributed.is_initialized() or alone:  # one rank gains nothing and takes 30 % longer (tiny network, CPU)
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    if collectives.sequence_group() is not None:
        from learner.parallel.sequence import Ulysses

        for part in (network, *network.blocks):
            part.layout = Ulysses(collectives.sequence_group())
    # Keys and values are views of their projections. Only in-place writes would lose FSDP's hooks, and there are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # Inputs are not cast: a timestep of 937.5 has no bfloat16. Wan casts the inputs of its matrix products.
    precision = MixedPrecisionPolicy(param_dtype=compute, cast_forward_inputs=False)
    if compute is not None:
        precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    options = {
        "mesh": init_device_mesh(device.type, (collectives.size(),)),
        "mp_policy": precision,
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        # The default keeps the root's whole weights after a pass; without a backward they would outlive an update.
        "reshard_after_forward": True,
    }
    for block in network.blocks:
        fully_shard(block, **options)
        for method in ("text_keys_values", "self_keys_values"):
            register_fsdp_forward_method(block, method)
    fully_shard(network, **options)
    for method in ("text_keys_values", "run", "keys_values"):
        register_fsdp_forward_method(network, method)


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether a tensor is a DTensor, without torch's module of them: a process of one rank never needs it."""
    return hasattr(tensor, "device_mesh")


def full_tensor(tensor: Tensor) -> Tensor:
    """Return all of a tensor, on every rank (a collective if it is sharded)."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def full_layers(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Iterator[dict[str, Tensor]]:
    """Yield all of the tensors, a block at a time and the rest, in `dtype` where given (a collective for each part).

    A collective for each tensor would cost 825 launches and waits for Wan 1.3B. They are cast where the shards are:
    half the bytes to gather, and one thread of a CPU takes seconds for 1.3B. Drop a part before the next one.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        block = ".".join(name.split(".")[:2]) if name.startswith("blocks.") else ""
        parts.setdefault(block, {})[name] = tensor.detach()
    for part in parts.values():
        yield _full(part, dtype)


def _full(part: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Gather all shards of `part` at once, as bytes: each rank's lie side by side, padded to the largest shard."""
    full = {name: tensor.to(dtype or tensor.dtype) for name, tensor in part.items() if not is_sharded(tensor)}
    sharded = {name: tensor for name, tensor in part.items() if is_sharded(tensor)}
    if not sharded:
        return full
    assert all(tensor.placements[0].is_shard(0) for tensor in sharded.values()), "FSDP2 cuts rows"
    mesh = next(iter(sharded.values())).device_mesh
    ranks = mesh.size()
    shards = {n: t.to_local().to(mesh.device_type, dtype or t.dtype).contiguous() for n, t in sharded.items()}
    rows = {
        name: -(-tensor.shape[0] // ranks) for name, tensor in sharded.items()
    }  # as torch.chunk cuts; the last less
    places, end = side_by_side({n: rows[n] * t.shape[1:].numel() * shards[n].itemsize for n, t in sharded.items()})
    own = torch.empty(end, dtype=torch.uint8, device=next(iter(shards.values())).device)
    for name, shard in shards.items():
        own[places[name]][: shard.nbytes].copy_(shard.flatten().view(torch.uint8))
    gathered = own.new_empty(ranks * end)
    distributed.all_gather_into_tensor(gathered, own, mesh.get_group())
    for name, tensor in sharded.items():
        padded = gathered.view(ranks, end)[:, places[name]].reshape(-1).view(shards[name].dtype)
        full[name] = padded[: tensor.numel()].view(tensor.shape)
    return full


def local_shards(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return this rank's part of each tensor; writing there writes the tensor."""
    return [tensor.to_local() if is_sharded(tensor) else tensor for tensor in tensors]


@torch.no_grad()
def copy_into_shards(target: Tensor, values: Tensor) -> None:
    """Copy full `values`, which every rank has, into `target`: each rank its shard."""
    if is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        placed = values.to(target.device)
        values = distribute_tensor(placed, target.device_mesh, target.placements, src_data_rank=None).to_local()
        target = target.to_local()
    target.copy_(values)
