import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.checkpoints.config_json import read_config
from models.checkpoints.conversion import plan_tensors, split_into_shards, write_checkpoint
from models.checkpoints.formats import Checkpoint, open_checkpoint
from models.checkpoints.lora_files import Adapter
from models.checkpoints.safetensors_files import Stored
from models.checkpoints.weight_files import save_weights, stored_tensors, verify_weights
from models.checkpoints.weight_names import to_original
from models.errors import ConfigError
from models.wan.network import Wan
from tests.models.checkpoints.wan_checkpoints import CONFIG, equal

LARGE = 10**9


@pytest.fixture
def source(tmp_path) -> Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(Wan(CONFIG).state_dict(), tmp_path / "w.safetensors", {})
    return open_checkpoint(tmp_path / "w.safetensors", "source")


@pytest.mark.parametrize("shard_bytes", [20_000, LARGE])
def test_diffusers_reads_a_written_folder_whole(source, tmp_path, shard_bytes):
    write_checkpoint(source, CONFIG, tmp_path / "out", original=False, shard_bytes=shard_bytes)
    network, loading = WanTransformer3DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert {name: list(names) for name, names in loading.items() if names} == {}
    assert equal(network.state_dict(), dict(source.tensors()))
    assert read_config(tmp_path / "out" / "config.json", "x") == CONFIG
    assert (len(list((tmp_path / "out").glob("*.safetensors"))) > 1) == (shard_bytes < LARGE)


@pytest.mark.parametrize("shard_bytes", [20_000, LARGE])
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_from_original_names_to_diffusers_and_back_is_the_identity(source, tmp_path, shard_bytes, name):
    first, second, third = (tmp_path / f"{i}{name}" for i in range(3))
    write_checkpoint(source, CONFIG, first, original=True, shard_bytes=shard_bytes)
    write_checkpoint(open_checkpoint(first, "x"), CONFIG, second, original=False, shard_bytes=shard_bytes)
    write_checkpoint(open_checkpoint(second, "x"), CONFIG, third, original=True, shard_bytes=shard_bytes)
    expected = {to_original(name): tensor for name, tensor in source.tensors()}
    assert equal(held(first), expected) and equal(held(third), expected)
    assert equal(held(second), dict(source.tensors()))
    if first.is_dir():
        assert (first / "config.json").read_text() == (third / "config.json").read_text()


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_flipped_byte_in_any_converted_file_is_noticed(source, tmp_path, name):
    out = tmp_path / name
    write_checkpoint(source, CONFIG, out, original=True, shard_bytes=20_000)
    files = [out] if out.is_file() else sorted(out.glob("*.safetensors"))
    assert verify_weights(out, "init") and (len(files) > 2) == out.is_dir()
    for file in files:
        whole = file.read_bytes()
        for place in (len(whole) // 2, len(whole) - 1, whole.index(b"longtake.sha256"), whole.index(b"sha256") + 20):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            file.write_bytes(flipped)
            try:
                assert not verify_weights(out, "init") and out.is_file(), "one of several files without a checksum"
            except ConfigError as error:
                assert error.key == "init" and file.name in error.problem
        file.write_bytes(whole)
    assert verify_weights(out, "init")


def test_an_index_is_verified_with_its_shards_and_one_of_foreign_origin_is_named(source, tmp_path):
    write_checkpoint(source, CONFIG, tmp_path / "out", original=False, shard_bytes=20_000)
    index, (first, *_) = next((tmp_path / "out").glob("*.index.json")), sorted((tmp_path / "out").glob("*.safetensors"))
    assert verify_weights(index, "init") and verify_weights(first, "init")
    save_file(load_file(first), first)
    assert not verify_weights(first, "init")
    for path in (index, tmp_path / "out"):
        with pytest.raises(ConfigError) as error:
            verify_weights(path, "init")
        assert (error.value.key, error.value.value) == ("init", path) and first.name in error.value.problem


def held(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of a folder's, under the names that they have there."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def test_adapters_are_merged_and_every_tensor_is_cast(source, tmp_path):
    adapter = Adapter(torch.ones(1, 24), torch.ones(24, 1), 0.5)
    write_checkpoint(
        source, CONFIG, tmp_path / "out", original=True, dtype=torch.bfloat16,
        adapters={"blocks.1.attn2.to_k": adapter}, shard_bytes=LARGE,
    )  # fmt: skip
    expected = dict(source.tensors())
    expected["blocks.1.attn2.to_k.weight"] = expected["blocks.1.attn2.to_k.weight"] + 0.5
    found = dict(stored_tensors(tmp_path / "out"))
    assert equal(found, {name: tensor.bfloat16() for name, tensor in expected.items()})


@pytest.mark.parametrize(
    ("up", "dtype", "key"), [(float("nan"), None, "source"), (1e6, torch.float16, "dtype"), (1e6, None, None)]
)
def test_numbers_that_are_not_finite_in_the_file_are_refused_and_nothing_is_left(source, tmp_path, up, dtype, key):
    adapters = {"blocks.1.attn2.to_k": Adapter(torch.ones(1, 24), torch.full((24, 1), up), 1.0)}
    keys = {"original": True, "dtype": dtype, "adapters": adapters, "shard_bytes": LARGE}
    if key is None:
        write_checkpoint(source, CONFIG, tmp_path / "out", **keys)
        return
    with pytest.raises(ConfigError) as error:
        write_checkpoint(source, CONFIG, tmp_path / "out", **keys)
    assert error.value.key == key and not list(tmp_path.glob("*out*"))


def test_bytes_heard_on_the_way_add_up_to_those_planned(source, tmp_path):
    heard = []
    write_checkpoint(source, CONFIG, tmp_path / "out", original=False, shard_bytes=30_000, on_progress=heard.append)
    assert sum(heard) == sum(stored.size for stored in plan_tensors(source, False, None).values())
    assert len(heard) == len(source.stored)


def test_shards_hold_everything_in_order_and_none_exceeds_its_size_but_for_one_large_tensor():
    plan = {str(i): Stored((size,), torch.float16) for i, size in enumerate([1, 2, 3, 50, 1, 1, 5, 5])}
    cut = split_into_shards(plan, 12)
    assert [name for part in cut for name in part] == list(plan)
    assert [[stored.size for stored in part.values()] for part in cut] == [[2, 4, 6], [100], [2, 2], [10], [10]]


def test_an_index_says_where_each_tensor_lies_and_how_large_all_are(source, tmp_path):
    write_checkpoint(source, CONFIG, tmp_path / "out", original=False, shard_bytes=20_000)
    index = json.loads((tmp_path / "out" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for _, tensor in source.tensors())
    for file in set(index["weight_map"].values()):
        assert set(load_file(tmp_path / "out" / file)) == {n for n, at in index["weight_map"].items() if at == file}


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_stopped_write_leaves_nothing(source, tmp_path, name, error):
    before = sorted(tmp_path.rglob("*"))
    heard = []

    def stop(size: int) -> None:
        heard.append(size)
        if len(heard) == 20:
            raise error("stop")

    with pytest.raises(error):
        write_checkpoint(source, CONFIG, tmp_path / name, original=False, shard_bytes=20_000, on_progress=stop)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("taken", ["out", ".out.partial"])
def test_nothing_is_overwritten(source, tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(ConfigError) as error:
        write_checkpoint(source, CONFIG, tmp_path / "out", original=False, shard_bytes=LARGE)
    assert error.value.key == "out" and str(tmp_path / taken) in error.value.problem
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_everything_is_on_the_disk_before_it_has_its_name(source, tmp_path, monkeypatch, name):
    flushed, sync = [], os.fsync

    def seen(descriptor):
        flushed.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), (tmp_path / name).exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    write_checkpoint(source, CONFIG, tmp_path / name, original=False, shard_bytes=20_000)
    *parts, last = flushed
    out = tmp_path / name
    assert last == (tmp_path, True) and not any(named for _, named in parts)
    assert {path.name for path, _ in parts} == {f".{name}.partial"} | (
        {file.name for file in out.iterdir()} if out.is_dir() else set()
    )


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_conversion_holds_a_few_tensors_and_never_the_network(tmp_path, kind):
    config = replace(CONFIG, num_attention_heads=32, ffn_dim=1536, num_layers=8)
    path = tmp_path / f"w.{kind}"
    tensors = {name: torch.ones(tensor.shape) for name, tensor in Wan(config).state_dict().items()}
    save_weights(tensors, path, {}) if kind == "safetensors" else torch.save({"generator": tensors}, path)
    whole, largest = sum(t.nbytes for t in tensors.values()), max(t.nbytes for t in tensors.values())
    del tensors
    before, held = anonymous_bytes(), []
    write_checkpoint(
        open_checkpoint(path, "source"), config, tmp_path / "out", original=False, dtype=torch.bfloat16,
        shard_bytes=LARGE, on_progress=lambda size: held.append(anonymous_bytes() - before),
    )  # fmt: skip
    assert len(held) > 100 and max(held) < 3 * largest < whole / 4


def anonymous_bytes() -> int:
    """Memory of this process that no file lies behind."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
