"""Groups of tensors in files, as a checkpoint of one rank keeps them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from learner.parallel.shard_files import OwnShards, ShardFiles


def in_files(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, ShardFiles]:
    """Write each group to a file of its own, and open it."""
    for group, tensors in groups.items():
        OwnShards.of(tensors).write(folder / f"{group}.safetensors")
    return {group: ShardFiles([folder / f"{group}.safetensors"]) for group in groups}
