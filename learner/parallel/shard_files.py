"""Keep groups of tensors in safetensors files, one for each rank, and read them on any number of ranks.

torch's planner (distributed checkpoint) decides what a rank writes and reads. The header of a file says, as JSON under
the name that torch's own reader knows, where each shard begins; a file without it holds whole tensors.

torch's planner is imported in the functions: it takes a second, and most processes that import this read no checkpoint.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from learner.parallel import collectives
from learner.parallel.host_memory import HostMemory
from learner.parallel.sharding import is_sharded
from models.checkpoints.safetensors_files import SafetensorsFile, Stored, open_safetensors
from models.checkpoints.weight_files import shape_misfit

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

_PLACES = "DCP_SHARDING_INFO"


@dataclass(frozen=True)
class OwnShards:
    """Holds this rank's parts of a group of tensors on the CPU, where nothing writes to them any more."""

    tensors: dict[str, Tensor]
    places: dict[str, dict[str, list[int]]]
    """First index of each part in its tensor (`saved_offsets`), and the whole `shape`; nothing for whole tensors."""

    @staticmethod
    @torch.no_grad()
    def of(tensors: Mapping[str, Tensor], memory: HostMemory | None = None) -> "OwnShards":
        """Copy this rank's parts, from a GPU into `memory`; whole tensors are rank 0's. No collective."""
        from torch.distributed.checkpoint.default_planner import create_default_local_save_plan
        from torch.distributed.checkpoint.utils import find_state_dict_object

        parts: dict[str, Tensor] = {}
        places: dict[str, dict[str, list[int]]] = {}
        tensors = dict(tensors)
        for item in create_default_local_save_plan(tensors, collectives.rank() == 0).items:
            name, chunk, whole = item.index.fqn, item.tensor_data.chunk, tensors[item.index.fqn]
            if is_sharded(whole):
                placed = zip(whole.placements, whole.device_mesh.get_coordinate(), strict=True)
                if 0 in chunk.sizes or any(place > 0 for kind, place in placed if kind.is_replicate()):
                    continue
                places[name] = {"saved_offsets": list(chunk.offsets), "shape": list(whole.shape)}
            elif collectives.rank() > 0:
                continue
            parts[name] = find_state_dict_object(tensors, item.index).detach()
        on_gpu = any(part.is_cuda for part in parts.values())
        if on_gpu:
            memory = memory or HostMemory()
            copies = memory.lay(parts)
        else:
            copies = {name: torch.empty(part.shape, dtype=part.dtype) for name, part in parts.items()}
        for name, part in parts.items():
            copies[name].copy_(part, non_blocking=True)
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return OwnShards(copies, places)

    def write(self, path: Path) -> None:
        """Write a safetensors file, without a second copy. Raises SafetensorError."""
        save_file(self.tensors, path, {_PLACES: json.dumps(self.places)} if self.places else None)


class ShardFiles:
    """Reads a group of tensors from the files of all ranks that wrote it, on any number of ranks."""

    def __init__(self, paths: Iterable[Path]):
        """Read the headers. Raises ConfigError, naming run_dir."""
        from torch.distributed.checkpoint import metadata

        self.stored: dict[str, Stored] = {}
        """Whole shape and dtype of each tensor."""
        self._chunks: dict[str, TensorStorageMetadata] = {}
        self._files: dict[MetadataIndex, SafetensorsFile] = {}
        for path in paths:
            file = open_safetensors(path, "run_dir")
            places = json.loads(file.metadata.get(_PLACES, "{}"))
            for name, part in file.stored.items():
                place = places.get(name, {"saved_offsets": [0] * len(part.shape), "shape": part.shape})
                whole = Stored(tuple(place["shape"]), part.dtype)
                chunk = metadata.ChunkStorageMetadata(torch.Size(place["saved_offsets"]), torch.Size(part.shape))
                properties = metadata.TensorProperties(part.dtype)
                described = metadata.TensorStorageMetadata(properties, torch.Size(whole.shape), [])
                self._chunks.setdefault(name, described).chunks.append(chunk)
                self._files[metadata.MetadataIndex(name, chunk.offsets)] = file
                self.stored[name] = whole
        self.shapes = {name: stored.shape for name, stored in self.stored.items()}

    @torch.no_grad()
    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Copy the values into `targets`, each rank into its shards and one part at a time; no collective.

        Raises ValueError, before anything is written, unless names and shapes are the same.
        """
        if difference := shape_misfit({name: tuple(tensor.shape) for name, tensor in targets.items()}, self.shapes):
            raise ValueError(f"the checkpoint is of another network: it {difference}")
        from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
        from torch.distributed.checkpoint.metadata import Metadata
        from torch.distributed.checkpoint.utils import find_state_dict_object

        targets = dict(targets)
        for item in create_default_local_load_plan(targets, Metadata(self._chunks)).items:
            target = find_state_dict_object(targets, item.dest_index).detach()
            file, name = self._files[item.storage_index], item.storage_index.fqn
            part = file.stored[name]
            # A range of rows is one piece of the file; what a cut along another axis leaves out is read with it.
            first, rows = (item.storage_offsets[0], item.lengths[0]) if part.shape else (0, 1)
            row = Stored(part.shape[1:], part.dtype)
            read = torch.empty((rows, *row.shape), dtype=part.dtype)
            with file.path.open("rb") as opened:
                opened.seek(file.places[name] + first * row.size)
                if opened.readinto(read.view(-1).view(torch.uint8).numpy()) != rows * row.size:
                    raise ValueError(f"{file.path} ends inside {name}")
            for axis, (begin, length) in enumerate(zip(item.dest_offsets, item.lengths, strict=True)):
                target = target.narrow(axis, begin, length)
                if axis:
                    read = read.narrow(axis, item.storage_offsets[axis], length)
            target.copy_(read.reshape(target.shape))
            del read  # before memory for the next one is taken

    def read(self) -> dict[str, Tensor]:
        """Read whole tensors into the memory of this process."""
        whole = {name: torch.empty(stored.shape, dtype=stored.dtype) for name, stored in self.stored.items()}
        self.read_into(whole)
        return whole
