import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from models.checkpoints.formats import open_checkpoint
from models.checkpoints.lora_files import read_adapters
from models.checkpoints.vae_files import open_wan_codec
from models.checkpoints.weight_files import check_weights, load_weights, stored_tensors, verify_weights
from models.errors import ConfigError
from models.text.encoder_files import find_encoder
from models.wan.network import Wan
from tests.models.checkpoints.wan_checkpoints import (
    CONFIG,
    FORMATS,
    ORIGINAL_CONFIG,
    WHOLE,
    empty,
    equal,
    original,
    ours,
    refusal,
    safe,
    saved,
    self_forcing,
    weights,
    write_diffusers,
    write_sharded,
)


@pytest.fixture(params=FORMATS)
def written(request, tmp_path) -> Path:
    return FORMATS[request.param](tmp_path, weights())


def test_each_format_gives_every_tensor_bit_by_bit_under_the_names_of_diffusers(written):
    assert equal(dict(stored_tensors(written)), weights())
    network = empty()
    load_weights(network, written, "init")
    assert equal(network.state_dict(), weights())


def test_each_format_is_checked_and_described_by_its_headers(written):
    with torch.device("meta"):
        check_weights(written, "init", Wan(CONFIG))
    stored = open_checkpoint(written, "init").stored
    assert {name: (held.shape, held.dtype) for name, held in stored.items()} == {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights().items()
    }
    assert list(stored) == [name for name, _ in stored_tensors(written)]


def test_each_format_lacking_a_tensor_is_refused_by_its_name(tmp_path):
    kept = weights()
    gone_name, theirs = "blocks.1.norm2.weight", "blocks.1.norm3.weight"
    gone = kept.pop(gone_name)
    assert gone_name in refusal(ours(tmp_path / "a.safetensors", kept))
    assert theirs in refusal(safe(tmp_path / "b.safetensors", original(kept)))
    assert theirs in refusal(saved(tmp_path / "c.pt", self_forcing(kept)))
    assert theirs in refusal(write_sharded(tmp_path / "d", original(kept), ORIGINAL_CONFIG))
    message = refusal(saved(tmp_path / "e.pt", self_forcing(kept | {"cls_pred_branch.weight": gone})))
    assert theirs in message and "cls_pred_branch.weight" in message


def test_an_image_to_video_checkpoint_is_refused_by_what_it_has_more(tmp_path):
    more = original(weights()) | {
        "img_emb.proj.0.weight": torch.ones(3),
        "blocks.0.cross_attn.k_img.bias": torch.ones(1),
    }
    message = refusal(safe(tmp_path / "i2v.safetensors", more))
    assert "image-to-video" in message and "blocks.0.cross_attn.k_img.bias" in message


def test_other_sizes_are_refused_by_name(tmp_path):
    other = weights() | {"blocks.0.attn1.to_q.weight": torch.ones(23, 24), "proj_out.bias": torch.ones(9)}
    message = refusal(saved(tmp_path / "x.pt", {"generator": original(other, "model.{}")}))
    assert "blocks.0.self_attn.q.weight, head.head.bias" in message


def test_a_shard_alone_is_refused_by_what_it_lacks(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    assert "lacks" in refusal(next(folder.glob("*-00001-of-*")))


def test_half_precision_comes_as_it_is_stored_and_fills_a_network_of_any_precision(tmp_path):
    half = weights(dtype=torch.bfloat16)
    for path in (write_diffusers(tmp_path / "t", half), saved(tmp_path / "x.pt", {"generator": half})):
        assert equal(dict(stored_tensors(path)), half)
        network = empty()
        load_weights(network, path, "init")
        assert equal(network.state_dict(), {name: tensor.float() for name, tensor in half.items()})


def test_the_same_weights_under_two_names_are_refused(tmp_path):
    tensors = original(weights()) | {"model.head.head.bias": torch.ones(8)}
    message = refusal(safe(tmp_path / "x.safetensors", tensors))
    assert "proj_out.bias" in message and "model.head.head.bias" in message


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_quantized_weights_are_refused(tmp_path, kind):
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in original(weights()).items()}
    path = tmp_path / f"x.{kind}"
    assert "8_e4m3" in refusal(saved(path, eight) if kind == "pt" else safe(path, eight)).lower()


def test_a_shard_that_is_missing_is_named(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    gone = sorted(folder.glob("*-0000*"))[1]
    gone.unlink()
    assert gone.name in refusal(folder)


def test_a_truncated_shard_is_named(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    cut = sorted(folder.glob("*-0000*"))[1]
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(ConfigError) as error:
        check_weights(folder, "init", empty())
    assert (error.value.key, error.value.value) == ("init", cut)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"weight_map": {"a": 3}}', " 3,"),
        ('{"weight_map": {"a": ""}}', " '',"),
        ('{"weight_map": {"a": "\\u0000"}}', "lacks"),
        (f'{{"weight_map": {{"a": "{300 * "x"}"}}}}', "lacks"),
        (f'{{"weight_map": {{"a": "{WHOLE}.index.json"}}}}', "which is an index"),
        (9999 * '{"weight_map":', "RecursionError"),
        ('{"weight_map": {"a": "../../secret.safetensors"}}', "../../secret.safetensors"),
    ],
)
def test_a_foreign_index_is_refused(tmp_path, text, fact):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / f"{WHOLE}.index.json").write_text(text)
    message = refusal(tmp_path / "t")
    assert fact in message and (f"{WHOLE}.index.json" in message or fact == "lacks")


def test_indexes_that_name_each_other_end_in_a_line_of_every_reader(tmp_path):
    one, two = (tmp_path / f"{stem}.safetensors.index.json" for stem in ("a", "b"))
    one.write_text(json.dumps({"weight_map": {"x": two.name}}))
    two.write_text(json.dumps({"weight_map": {"x": one.name}}))
    for read in (open_checkpoint, verify_weights, read_adapters):
        with pytest.raises(ConfigError) as error:
            read(one, "init")
        assert error.value.key == "init" and two.name in error.value.problem


def test_a_name_of_a_shard_without_a_count_is_one_whole_file(tmp_path):
    path = ours(tmp_path / "model-00001-of-00000.safetensors", weights())
    assert equal(dict(open_checkpoint(tmp_path, "init").tensors()), weights()) and path.is_file()


def test_an_index_that_names_other_tensors_than_the_shards_hold_is_refused(tmp_path):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    file = sorted(folder.glob("*-0000*"))[0]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name + "_more"] = tensors.pop(name)
    save_file(tensors, file)
    message = refusal(folder)
    assert name in message and file.name in message and "(2 " in message


def with_config(path: Path, **change) -> Path:
    """Write weights beside a config.json with other fields."""
    folder = write_diffusers(path / "t", weights())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    return folder


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"num_layers": 3}, ("num_layers", " 3", " 2")),
        ({"num_attention_heads": 1, "attention_head_dim": 24}, ("num_attention_heads", " 1", " 2")),
        ({"eps": 1e-5}, ("eps", "1e-05", "1e-06")),
    ],
)
def test_a_config_of_another_network_is_refused_by_the_field_with_both_values(tmp_path, change, facts):
    message = refusal(with_config(tmp_path, **change))
    assert all(fact in message for fact in ("config.json", *facts))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"_class_name": "HunyuanVideoTransformer3DModel"}, "HunyuanVideoTransformer3DModel"),
        ({"image_dim": 1280}, "image_dim=1280"),
        ({"qk_norm": None}, "qk_norm=None"),
        ({"num_layers": "2"}, "num_layers"),
        ({"attention_head_dim": 11}, "attention_head_dim=11"),
    ],
)
def test_a_config_that_no_network_of_ours_can_have_is_refused_by_the_field(tmp_path, change, fact):
    with pytest.raises(ConfigError) as error:
        check_weights(with_config(tmp_path, **change), "init", empty())
    assert error.value.key == "init" and "config.json" in error.value.problem and fact in error.value.problem


def test_a_folder_written_by_diffusers_computes_the_same_here(tmp_path):
    folder = write_diffusers(tmp_path / "transformer", weights(), max_shard_size="20KB")
    network = empty().eval()
    load_weights(network, tmp_path, "teacher")
    stock = WanTransformer3DModel.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(1)
    x_t, text = torch.randn(2, 3, 2, 4, 6, generator=generator), torch.randn(2, 5, 8, generator=generator)
    timestep = torch.tensor([937.5, 250.0])
    with torch.no_grad():
        expected = stock(x_t.transpose(1, 2), timestep, text).sample.transpose(1, 2)
        assert (network(x_t, timestep, text) - expected).norm() / expected.norm() <= 2e-6


def test_nobody_but_our_own_files_carries_a_checksum(written, request):
    assert verify_weights(written, "init") == ("our own file" in request.node.callspec.id)


SPOILT = {"Git LFS": b"version https://git-lfs.github.com/spec/v1\n", "web page": b" <!DOCTYPE html>", "GGUF": b"GGUF"}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_description_of_another_kind_of_file_is_named_by_that_kind(tmp_path, kind):
    folder = write_diffusers(tmp_path / "t", weights(), max_shard_size="20KB")
    for key, name, read in (
        ("init", "config.json", lambda: check_weights(folder, "init", empty())),
        ("init", f"{WHOLE}.index.json", lambda: check_weights(folder, "init", empty())),
        ("vae", "config.json", lambda: open_wan_codec(folder, 16, torch.device("cpu"), torch.float32)),
        ("text_encoder", "text_encoder/config.json", lambda: find_encoder(folder, 8)),
    ):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        whole = file.read_bytes() if file.is_file() else b"{}"
        file.write_bytes(SPOILT[kind])
        with pytest.raises(ConfigError) as error:
            read()
        file.write_bytes(whole)
        assert (error.value.key, error.value.value) == (key, file) and kind in error.value.problem
