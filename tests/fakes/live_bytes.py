"""Counts the bytes of the tensors that a block of code makes and still holds, and the most at any one time."""

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Tracks storages of plain tensors; those of sharded tensors are their local parts."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it calls the operation on its local part, which is counted
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if type(one) is torch.Tensor}
        result = func(*args, **(kwargs or {}))
        self.held = {key: (storage, size) for key, (storage, size) in self.held.items() if not storage.expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in given:
                self.held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return result
