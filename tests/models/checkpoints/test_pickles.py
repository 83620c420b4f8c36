import os
import random
from pathlib import Path

import pytest
import torch

from models.checkpoints.config_json import write_config
from models.checkpoints.conversion import convert_checkpoint
from models.checkpoints.formats import open_checkpoint
from models.checkpoints.weight_files import check_weights, load_weights, stored_tensors
from models.errors import ConfigError
from tests.models.checkpoints.wan_checkpoints import (
    CONFIG,
    empty,
    equal,
    original,
    ours,
    refusal,
    saved,
    self_forcing,
    weights,
)


@pytest.mark.parametrize("part", ["generator", "generator_ema", "critic", "generator_at_step_100"])
def test_any_part_of_a_pt_can_be_chosen(tmp_path, part):
    parts = {name: weights(seed) for seed, name in enumerate(["generator", "critic", "generator_ema"])}
    parts["generator_at_step_100"] = weights(5)
    path = saved(tmp_path / "x.pt", {name: original(tensors, "model.{}") for name, tensors in parts.items()})
    network = empty()
    load_weights(network, path, "init", part)
    assert equal(network.state_dict(), parts[part]) and equal(dict(stored_tensors(path, part)), parts[part])


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = saved(tmp_path / "x.pt", self_forcing(weights()))
    message = refusal(path, "generator_ema")
    assert "generator_ema" in message and "generator, critic" in message
    nothing = saved(tmp_path / "y.pt", {"student": original(weights()), "step": 3})
    message = refusal(nothing)
    assert all(name in message for name in ("generator_ema", "generator", "model", ": student"))
    file = ours(tmp_path / "w.safetensors", weights())
    with pytest.raises(ConfigError) as error:
        check_weights(file, "init", empty(), "critic")
    assert error.value.key == "init" and "part=critic" in error.value.fix


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("checkpoint", "source={path} part=state_dict out=NEW.safetensors, and write checkpoint=NEW.safetensors"),
        ("source", "part=state_dict"),
    ],
)
def test_the_only_network_under_an_unusual_name_is_named_with_the_key_or_command_that_reads_it(tmp_path, key, cure):
    path = saved(tmp_path / "x.pt", {"state_dict": original(weights()), "epoch": 3})
    with pytest.raises(ConfigError) as error:
        open_checkpoint(path, key)
    assert error.value.key == key and error.value.fix.endswith(cure.format(path=path))
    (tmp_path / "config.json").write_text(write_config(CONFIG, original=False))
    out = tmp_path / "NEW.safetensors"
    convert_checkpoint(path, out, part="state_dict", model=str(tmp_path / "config.json"), shard_bytes=10**9)
    assert equal(dict(stored_tensors(out)), weights())


@pytest.mark.parametrize("averaged", [None, {}, [1], {"model": original(weights())}])
def test_averaged_weights_that_cannot_be_read_are_refused_and_not_replaced_by_the_raw_ones(tmp_path, averaged):
    path = saved(tmp_path / "x.pt", self_forcing(weights()) | {"generator_ema": averaged})
    message = refusal(path)
    assert "generator_ema" in message and "generator, critic" in message
    assert equal(dict(stored_tensors(path, "generator")), weights())


class _Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_code_in_a_pt_is_refused_by_name_and_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(saved(tmp_path / "x.pt", self_forcing(weights(), config=_Code())))
    assert "(posix.mkdir)" in message and not Path("ran").exists()


@pytest.mark.parametrize("kept", [0, 3, 0.3, 0.9, 0.999])
def test_a_truncated_pt_is_refused_wherever_it_ends(tmp_path, kept):
    path = saved(tmp_path / "x.pt", self_forcing(weights()))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert refusal(path)


def test_a_pt_with_any_byte_changed_is_read_or_refused_in_a_line(tmp_path):
    path = saved(tmp_path / "x.pt", {"generator": {"head.head.bias": torch.ones(2)}, "step": 3})
    whole, chosen = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[chosen.randrange(len(whole))] = chosen.randrange(256)
        path.write_bytes(changed)
        try:
            list(stored_tensors(path))
        except ValueError as error:
            assert "\n" not in str(error) and "x.pt" in str(error)
            refused += 1
    assert 30 < refused < 300


@pytest.mark.parametrize(
    "held", [[torch.ones(1)], 3, {}, {"generator": {}}, {0: torch.ones(1)}, {"model": {"step": 3}}]
)
def test_a_pt_without_a_network_is_refused(tmp_path, held):
    message = refusal(saved(tmp_path / "x.pt", held))
    assert ": none" in message or type(held).__name__ in message


def test_a_pt_of_the_old_format_is_refused_with_the_cure(tmp_path):
    torch.save({"generator": original(weights())}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert " 1.6" in refusal(tmp_path / "x.pt")


def test_a_missing_pt_is_refused(tmp_path):
    assert refusal(tmp_path / "x.pt")


def test_a_file_that_is_no_pt_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refusal(tmp_path / "x.pt")


def test_reading_a_pt_reads_no_tensor_before_it_is_used(tmp_path):
    path = saved(tmp_path / "x.pt", self_forcing(weights()))
    before = dict(open_checkpoint(path, "init").tensors())
    with path.open("r+b") as file:  # what is mapped shows what is written into the file
        content = path.read_bytes()
        place = content.index(before["proj_out.bias"].numpy().tobytes())
        file.seek(place)
        file.write(bytes(4))
    assert before["proj_out.bias"][0] == 0
