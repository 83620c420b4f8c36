"""Shards of any number of ranks are read on any other. Ranks take turns in one process; their group sends nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from learner.parallel.shard_files import OwnShards, ShardFiles
from models.checkpoints.safetensors_files import Stored


@contextmanager
def as_rank(rank: int, ranks: int) -> Iterator[None]:
    distributed.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def cut(whole: Tensor, rank: int, ranks: int, axis: int) -> DTensor:
    """A rank's shard of a tensor, cut as FSDP cuts: the last ranks may have less, or nothing."""
    chunks = whole.chunk(ranks, axis)
    local = chunks[rank] if rank < len(chunks) else whole.narrow(axis, 0, 0)
    mesh = init_device_mesh("cpu", (ranks,))
    return DTensor.from_local(
        local.contiguous(), mesh, [Shard(axis)], run_check=False, shape=whole.shape, stride=whole.stride()
    )


SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, writers=st.integers(1, 5), readers=st.integers(1, 5), axes=st.tuples(*[st.integers(0, 2)] * 2))
def test_any_number_of_ranks_reads_what_any_other_number_wrote(tmp_path_factory, shape, writers, readers, axes):
    folder = tmp_path_factory.mktemp("shards")
    whole, count = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor(3.0)
    written, read = (axis % len(shape) for axis in axes)
    for rank in range(writers):
        with as_rank(rank, writers):
            shards = OwnShards.of({"w": cut(whole, rank, writers, written), "step": count})
            assert ("step" in shards.tensors) == (rank == 0)
            shards.write(folder / f"{rank}.safetensors")
    files = ShardFiles(sorted(folder.iterdir()))
    assert files.shapes == {"w": tuple(shape), "step": ()} and files.stored["w"] == Stored(tuple(shape), torch.float32)
    assert torch.equal(files.read()["w"], whole)
    for rank in range(readers):
        with as_rank(rank, readers):
            target = {"w": cut(torch.zeros_like(whole), rank, readers, read), "step": torch.tensor(0.0)}
            files.read_into(target)
            assert torch.equal(target["w"].to_local(), cut(whole, rank, readers, read).to_local())
            assert target["step"] == 3


def test_of_replicas_of_a_shard_the_first_is_written(tmp_path):
    whole = torch.arange(12.0).view(4, 3)
    for rank in range(4):
        with as_rank(rank, 4):
            mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard"))
            local = whole.chunk(2)[rank % 2].contiguous()
            tensor = DTensor.from_local(local, mesh, [Replicate(), Shard(0)], run_check=False)
            shards = OwnShards.of({"w": tensor})
            assert bool(shards.tensors) == (rank < 2)
            shards.write(tmp_path / f"{rank}.safetensors")
    assert torch.equal(ShardFiles(sorted(tmp_path.iterdir())).read()["w"], whole)


def files_of(path: Path, tensors: dict[str, Tensor]) -> ShardFiles:
    save_file(tensors, path)
    return ShardFiles([path])


def test_a_file_without_places_holds_whole_tensors_and_that_of_one_rank_is_such_a_file(tmp_path):
    tensors = {"w": torch.randn(3, 2), "count": torch.tensor(7), "none": torch.empty(0, 4)}
    read = files_of(tmp_path / "old.safetensors", tensors).read()
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)
    OwnShards.of(tensors).write(tmp_path / "new.safetensors")
    assert (tmp_path / "new.safetensors").read_bytes() == (tmp_path / "old.safetensors").read_bytes()
    assert load_file(tmp_path / "new.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize("other", [{"w": torch.zeros(3, 2)}, {"w": torch.zeros(2, 2), "b": torch.zeros(2)}, {}])
def test_tensors_of_another_network_are_refused_before_anything_is_written(tmp_path, other):
    files = files_of(tmp_path / "w.safetensors", {"w": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"\b[wb]\b"):
        files.read_into(other)
    assert not any(tensor.any() for tensor in other.values())
