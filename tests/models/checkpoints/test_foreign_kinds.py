"""What is known and not served is refused by its kind, in one line that says what to take instead."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoints.formats import open_checkpoint
from models.checkpoints.lora_files import read_adapters
from models.errors import ConfigError
from tests.models.checkpoints.wan_checkpoints import equal, original, weights
from tests.models.checkpoints.weights_table import as_safetensors, as_torch, shards, spelled

BASE, ADAPTERS = original(weights()), spelled("original Wan, ComfyUI, LightX2V")[0]
BLOCK = "diffusion_model.blocks.0.self_attn.q"
ONE = torch.ones(1)


def eight(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}


def patches(channels: int) -> dict[str, Tensor]:
    return BASE | {"patch_embedding.weight": torch.zeros(24, channels, 1, 2, 2)}


NETWORKS = {
    "fp8-scaled by scales": (BASE | {"blocks.0.self_attn.q.scale_weight": ONE}, "fp8-scaled"),
    "fp8": (eight(BASE), "fp8-scaled"),
    "VACE": (BASE | {"vace_blocks.0.proj_out.weight": ONE}, "VACE"),
    "two-expert memory": (BASE | {"blocks.0.cross_attn.memory_k.bias": ONE}, "two-expert"),
    "image-to-video by channels": (patches(36), "image-to-video"),
    "image-to-video by names": (BASE | {"img_emb.proj.0.weight": ONE}, "image-to-video"),
    "5B": (patches(48), "Wan2.2-TI2V-5B"),
    "controls": (BASE | {"control_adapter.conv.weight": ONE}, "controls"),
    "text encoder": ({"token_embedding.weight": ONE}, "text encoder"),
    "VAE": ({"encoder.conv1.weight": ONE}, "VAE"),
    "LoRA": (ADAPTERS, "adapters"),
}
LORAS = {
    "DoRA": ({f"{BLOCK}.dora_scale": ONE}, "DoRA"),
    "DoRA of peft": ({f"{BLOCK}.lora_magnitude_vector.default.weight": ONE}, "DoRA"),
    "LoKr": ({f"{BLOCK}.lokr_w1": ONE}, "LoKr"),
    "LoHa": ({f"{BLOCK}.hada_w1_a": ONE}, "LoHa"),
    "biases": ({f"{BLOCK}.lora_up.bias": ONE}, "lora_bias"),
    "whole modules": ({"base_model.model.head.head.modules_to_save.weight": ONE}, "modules_to_save"),
    "image-to-video": ({"diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": ONE}, "image-to-video"),
}


def refused(path: Path, kind: str, key: str = "checkpoint") -> str:
    with pytest.raises(ConfigError) as error:
        open_checkpoint(path, key) if key == "checkpoint" else read_adapters(path, key)
    assert error.value.key == key and "\n" not in str(error.value)
    assert kind in error.value.problem, error.value.problem
    return error.value.fix


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("save", [as_safetensors, as_torch])
def test_a_network_of_a_known_kind_is_refused_by_it(tmp_path, name, save):
    tensors, kind = NETWORKS[name]
    fix = refused(save(tmp_path / "x", tensors), kind)
    assert any(word in fix for word in ("Wan2.1-T2V", "bfloat16", "vae=", "text_encoder=", "lora="))


@pytest.mark.parametrize("name", LORAS)
def test_adapters_of_a_known_kind_are_refused_by_it(tmp_path, name):
    more, kind = LORAS[name]
    refused(as_safetensors(tmp_path / "x.safetensors", ADAPTERS | more), kind, "lora")


@pytest.mark.parametrize(
    ("start", "kind", "fix"),
    [
        (b"GGUF\3\0\0\0", "GGUF", "bfloat16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page", "download"),
        (b"\x80\x02}q\x00.", "torch before 1.6", "again"),
        (b"", "empty", "again"),
        (b"RIFF0000WAVE", "neither", "again"),
        (b"\x89PNG\r\n\x1a\n", "PNG", "right file"),
    ],
)
@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.gguf", "x"])
def test_a_file_is_known_by_its_first_bytes_under_any_name(tmp_path, start, kind, fix, name):
    (tmp_path / name).write_bytes(start)
    assert fix in refused(tmp_path / name, kind)


@pytest.mark.parametrize("name", ["x.pt", "x.SAFETENSORS", "x.sft", "x"])
def test_safetensors_are_read_under_any_name(tmp_path, name):
    assert len(open_checkpoint(as_safetensors(tmp_path / name, BASE), "init").stored) == len(BASE)


def mlx(path):
    """Weights in 4 bits as packed whole numbers, with scales and biases for each 64."""
    quantized = {
        "weight": torch.zeros(8, 2, dtype=torch.uint32),
        "scales": torch.ones(8, 1),
        "biases": torch.ones(8, 1),
    }
    return as_safetensors(path, {f"blocks.0.attn1.to_q.{name}": tensor for name, tensor in quantized.items()})


def fp4(path):
    """Weights of half a byte each, which no library here can write."""
    text = json.dumps({"proj_out.weight": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2))
    return path


@pytest.mark.parametrize(
    ("make", "kind", "key"),
    [(mlx, "as uint32: quantized", "checkpoint"), (fp4, "as F4: quantized", "checkpoint"), (fp4, "as F4", "lora")],
)
def test_weights_of_packed_bits_are_refused_as_quantized_and_not_as_damaged(tmp_path, make, kind, key):
    assert "bfloat16" in refused(make(tmp_path / "x.safetensors"), kind, key)


def test_a_cut_file_and_one_with_surplus_bytes_are_told_apart(tmp_path):
    path = as_safetensors(tmp_path / "x.safetensors", BASE)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\n\n\n")
    assert f"truncate -s {len(whole)}" in refused(path, "3 surplus bytes")
    path.write_bytes(whole[:-7])
    assert "again" in refused(path, f"after {len(whole) - 7} of {len(whole)} bytes")


def test_a_header_is_read_where_the_file_is_larger_than_memory(tmp_path):
    path = tmp_path / "x.safetensors"
    text = json.dumps({"a": {"dtype": "BF16", "shape": [1 << 20, 1 << 16], "data_offsets": [0, 1 << 37]}}).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + (1 << 37))
    assert open_checkpoint(path, "init").stored["a"].shape == (1 << 20, 1 << 16)


def test_an_empty_mark_of_eight_bits_is_no_weight(tmp_path):
    marked = BASE | {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    assert len(open_checkpoint(as_safetensors(tmp_path / "x", marked), "init").stored) == len(BASE)


def test_folders_of_two_experts_of_dcp_and_of_several_networks_are_refused_with_what_to_give(tmp_path):
    for name in ("transformer", "transformer_2"):
        (tmp_path / "moe" / name).mkdir(parents=True)
    assert "moe/transformer" in refused(tmp_path / "moe", "two experts")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp/__0_0.distcp").write_bytes(b"x")
    assert "dcp_to_torch_save" in refused(tmp_path / "dcp", "DCP")
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        as_safetensors(tmp_path / "two" / name / "model.safetensors", BASE)
    assert "two/" in refused(tmp_path / "two", "a, b")
    shards(tmp_path / "cut", BASE, as_safetensors, "safetensors", False)
    next((tmp_path / "cut").glob("*-00002-*")).unlink()
    refused(tmp_path / "cut", "lacks diffusion_pytorch_model-00002-of-00002.safetensors")
    (tmp_path / "link.safetensors").symlink_to("nowhere")
    refused(tmp_path / "link.safetensors", "nowhere")


def test_a_base_with_adapters_of_peft_is_merged_where_their_alpha_is_stated_and_refused_where_not(tmp_path):
    def wrapped(name: str) -> str:
        return f"base_model.model.{name.replace('.self_attn.q.', '.self_attn.q.base_layer.')}"

    adapters, _ = spelled("peft")
    layer = "base_model.model.blocks.0.self_attn.q"
    own = {name: tensor for name, tensor in adapters.items() if name.startswith(layer)}
    path = as_safetensors(tmp_path / "x.safetensors", {wrapped(name): t for name, t in BASE.items()} | own)
    assert "merge_and_unload" in refused(path, "without their alpha")
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 6})}
    save_file({wrapped(name): t for name, t in BASE.items()} | own, path, metadata)
    found, expected = dict(open_checkpoint(path, "init").tensors()), weights()
    expected["blocks.0.attn1.to_q.weight"] += 3 * own[f"{layer}.lora_B.weight"] @ own[f"{layer}.lora_A.weight"]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
    as_safetensors(path, {wrapped(name): t for name, t in BASE.items()} | own)
    as_safetensors(path.with_name("other.safetensors"), BASE)
    path.with_name("adapter_config.json").write_text(json.dumps({"lora_alpha": 6}))
    assert equal(dict(open_checkpoint(path, "init").tensors()), found)


def test_one_of_several_adapters_is_read_by_name_and_none_is_guessed(tmp_path):
    style, plain = spelled("peft, adapter `style`")[0], spelled("peft")[0]
    other = {name.replace(".style.", ".other."): 2 * tensor for name, tensor in style.items()}
    path = as_safetensors(tmp_path / "x.safetensors", style | other)
    assert "lora_part=other" in refused(path, "other, style", "lora")
    found = read_adapters(path, "lora", part="other")["blocks.0.attn1.to_q"]
    assert torch.equal(found.up, 2 * plain["base_model.model.blocks.0.self_attn.q.lora_B.weight"])
    bundle = as_torch(tmp_path / "x.pt", {"generator_lora": plain, "generator_ema": style, "step": 3})
    ema = read_adapters(bundle, "lora", part="generator_ema")["blocks.0.attn1.to_q"]
    assert torch.equal(ema.up, plain["base_model.model.blocks.0.self_attn.q.lora_B.weight"])
    assert "lora_part" in refused(as_torch(tmp_path / "y.pt", {"a": plain, "b": style}), "a, b", "lora")


def test_whole_differences_change_weights_biases_and_modulations_by_the_strength(tmp_path):
    changed = {"q.weight": "self_attn.q.diff", "q.bias": "self_attn.q.diff_b", "norm": "norm3.diff"}
    shapes = {"q.weight": (24, 24), "q.bias": (24,), "norm": (24,)}
    tensors = {f"diffusion_model.blocks.0.{theirs}": torch.ones(shapes[ours]) for ours, theirs in changed.items()}
    tensors |= {"diffusion_model.blocks.0.diff_m": torch.ones(1, 6, 24), "diffusion_model.head.diff_m": ONE}
    found = read_adapters(as_safetensors(tmp_path / "x.safetensors", tensors), "lora", 0.5)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "blocks.0.attn1.to_q.weight": (24, 24), "blocks.0.attn1.to_q.bias": (24,), "blocks.0.norm2.weight": (24,),
        "blocks.0.scale_shift_table": (1, 6, 24), "scale_shift_table": (1,),
    }  # fmt: skip
    assert all((tensor == 0.5).all() for tensor in found.values())
