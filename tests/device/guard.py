"""Raise where code that runs on a GPU waits for it, mixes devices, or computes in a type that it should not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import _resolve_process_group, _world
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from learner import ode, policy_batches, score_distillation
from learner.losses.policy import POLICY_LOSSES
from learner.parallel import collectives
from models.wan.layers import Block

_COPIES = ("_to_copy", "copy_", "_copy_from", "_foreach_copy_")
_READS = ("_local_scalar_dense", "nonzero")
_LOSSES = (
    (score_distillation, "dmd_loss"), (score_distillation, "dmd_gradient"), (score_distillation, "squared_error"),
    (ode, "squared_error"), (policy_batches, "kl"), (policy_batches, "log_ratio"), (policy_batches, "correction"),
)  # fmt: skip


class Misplaced(AssertionError):
    """Says that an operation met a tensor of another device or type, or a group of other ranks."""


class HostWaits(AssertionError):
    """Says that the host reads a value from the GPU inside a block or a loss."""


class Guard(TorchDispatchMode):
    """Watches every operation: devices and process groups always; types and reads inside blocks and losses."""

    def __init__(self, sequence_ranks: int = 1) -> None:
        super().__init__()
        self.inside = 0
        """Depth of blocks and losses at work."""
        self.operations = 0
        self.sequence_ranks = sequence_ranks
        self.gathers_shares = False
        """Whether a gather of the shares of a batch is at work."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        devices = {tensor.device.type for tensor in given}
        if len(devices) > 1 and name not in _COPIES:
            raise Misplaced(f"{name} of tensors on {sorted(devices)}")
        if function.namespace in ("c10d", "_c10d_functional"):
            self._check_group(name, args)
        if self.inside and name in _READS and "cuda" in devices:
            raise HostWaits(f"{name} inside a block or a loss")
        if self.inside and name in _COPIES and {"cpu", "cuda"} <= devices and not kwargs.get("non_blocking", False):
            raise HostWaits(f"{name} between host and GPU inside a block or a loss")
        result = function(*args, **kwargs)
        self.operations += 1
        if self.inside == 1 and any(_is_wide(value) for value in tree_leaves(result)):
            raise Misplaced(f"{name} computes {torch.float64} inside a block")
        return result

    @contextmanager
    def watching(self) -> Iterator["Guard"]:
        """Watch this process's networks and losses, in forward passes and in their recomputation."""
        saved = [
            (Block, "forward", Block.forward),
            *((module, name, getattr(module, name)) for module, name in _LOSSES),
            (collectives, "all_gather_cat", collectives.all_gather_cat),
        ]
        collectives.all_gather_cat = self._of_shares(collectives.all_gather_cat)
        Block.forward = self._inside(Block.forward, 1)
        for module, name in _LOSSES:
            setattr(module, name, self._inside(getattr(module, name), 2))
        policies = dict(POLICY_LOSSES)
        POLICY_LOSSES.update({name: self._inside(loss, 2) for name, loss in policies.items()})
        try:
            with self:
                yield self
        finally:
            for owner, name, original in saved:
                setattr(owner, name, original)
            POLICY_LOSSES.update(policies)

    def _inside(self, original: Callable, depth: int) -> Callable:
        """Return `original`, watched as inside: `depth` 1 is a block, where no float64 is computed; 2 a loss."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            before, self.inside = self.inside, depth
            try:
                return original(*args, **kwargs)
            finally:
                self.inside = before

        return watched

    def _of_shares(self, original: Callable) -> Callable:
        """Return `original`, watched as a collective of the ranks that hold the shares of a batch."""

        def watched(values: Tensor) -> Tensor:
            self.gathers_shares = True
            try:
                return original(values)
            finally:
                self.gathers_shares = False

        return watched

    def _check_group(self, name: str, args: tuple) -> None:
        """Raise Misplaced for a collective of other ranks than its own.

        The ranks are a mesh [data, sequence]: a batch's shares are gathered down a column, tokens exchanged along a
        row, and everything else is of all ranks.
        """
        rank, size, columns = distributed.get_rank(), distributed.get_world_size(), self.sequence_ranks
        own = list(range(size))
        if "all_to_all" in name or "alltoall" in name:
            own = own[rank // columns * columns :][:columns]
        elif self.gathers_shares:
            own = own[rank % columns :: columns]
        for group in _groups_in(args):
            members = distributed.get_process_group_ranks(group)
            if members != own:
                raise Misplaced(f"{name} among ranks {members}, not {own}")


def _groups_in(args: tuple) -> list[distributed.ProcessGroup]:
    """Return the process groups among the arguments of a collective: objects in c10d, names in functional ones."""
    groups = [
        distributed.ProcessGroup.unbox(value)
        for value in args
        if isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type())
    ]
    groups += [value for value in args if isinstance(value, distributed.ProcessGroup)]
    names = [value for value in args if isinstance(value, str)] + [group.group_name for group in groups]
    return [_resolve_process_group(name) for name in names if name in _world.pg_names.values()]


def _is_wide(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float64
