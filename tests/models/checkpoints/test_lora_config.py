import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn

from models.checkpoints.lora_config import UNSTATED
from models.checkpoints.lora_files import read_adapters, read_loras
from models.checkpoints.weight_names import to_diffusers, to_original
from models.errors import ConfigError

LAYERS = ("blocks.0.self_attn.q", "blocks.0.cross_attn.o", "blocks.1.ffn.0", "blocks.1.ffn.2", "head.head")
"""Original names of layers."""
OWNERS = {
    "of peft": ("base_model.model.{}", str), "of ComfyUI": ("diffusion_model.{}", str),
    "of kohya": ("lora_unet_{}", lambda name: name.replace(".", "_")),
    "of diffusers": ("transformer.{}", to_diffusers),
}  # fmt: skip


def described(path: Path, fields: dict, own_names: str = "of peft", ranks: dict | None = None) -> Path:
    """Write a LoRA of rank 4, with peft's configuration in the header of diffusers or beside the file."""
    pattern, speak = OWNERS[own_names]
    tensors = {}
    for layer in LAYERS:
        rank = (ranks or {}).get(layer, 4)
        tensors[f"{pattern.format(speak(layer))}.lora_A.weight"] = torch.ones(rank, 8)
        tensors[f"{pattern.format(speak(layer))}.lora_B.weight"] = torch.ones(8, rank)
    if path.name.startswith("adapter_model."):
        save_file(tensors, path)
        path.with_name("adapter_config.json").write_text(json.dumps(fields))
    else:
        header = {f"transformer.{name}": value for name, value in fields.items()}
        save_file(tensors, path, {"lora_adapter_metadata": json.dumps(header)})
    return path


def scales(path: Path) -> dict[str, float]:
    """Scales by the original names of the layers."""
    return {to_original(layer): adapter.scale for layer, adapter in read_adapters(path, "lora").items()}


def of_original_code() -> nn.Module:
    network = nn.Module()
    for layer in LAYERS:
        *parents, leaf = layer.split(".")
        owner = network
        for name in parents:
            if not hasattr(owner, name):
                owner.add_module(name, nn.Module())
            owner = getattr(owner, name)
        owner.add_module(leaf, nn.Linear(8, 8, bias=False))
    return network


@pytest.mark.parametrize(
    "patterns",
    [
        {"self_attn.q": 16}, {"blocks.0.self_attn.q": 16}, {"^blocks.0.self_attn.q": 16}, {"q|o": 2, "head": 1},
        {"0": 8}, {r"ffn\.\d": 1, "blocks.1.ffn.2": 64},
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "lora.safetensors"])
def test_patterns_of_original_names_give_the_scales_of_peft(tmp_path, patterns, file):
    config = {"r": 4, "lora_alpha": 4, "alpha_pattern": patterns, "rank_pattern": {"cross_attn.o": 2}}
    stock = inject_adapter_in_model(LoraConfig(target_modules=list(LAYERS), **config), of_original_code())
    found = scales(described(tmp_path / file, config, ranks={"blocks.0.cross_attn.o": 2}))
    assert found == {layer: stock.get_submodule(layer).scaling["default"] for layer in LAYERS}
    assert len(set(found.values())) > 1


@pytest.mark.parametrize("own_names", OWNERS)
@pytest.mark.parametrize("pattern", ["self_attn.q", "attn1.to_q", "blocks.0.self_attn.q", r"^blocks\.\d\.attn1\.to_q"])
def test_a_pattern_means_its_layer_under_the_names_of_either_code_and_of_the_file(tmp_path, own_names, pattern):
    config = {"lora_alpha": 4, "alpha_pattern": {pattern: 16}}
    expected = {layer: 4.0 if layer == LAYERS[0] else 1.0 for layer in LAYERS}
    assert scales(described(tmp_path / "lora.safetensors", config, own_names)) == expected


@pytest.mark.parametrize("field", ["alpha_pattern", "rank_pattern"])
@pytest.mark.parametrize("pattern", ["tn1.to_q", "elf_attn.q", "self_attn", "blocks.2.self_attn.q"])
def test_a_pattern_of_no_layer_is_refused_by_name(tmp_path, field, pattern):
    path = described(tmp_path / "adapter_model.safetensors", {"lora_alpha": 4, field: {"q": 4, pattern: 16}})
    with pytest.raises(ConfigError) as error:
        read_adapters(path, "lora")
    assert (error.value.key, error.value.value) == ("lora", path) and f"has {pattern} in" in error.value.problem


@pytest.mark.parametrize("field", [{"r": 8}, {"r": 4, "rank_pattern": {"head": 8}}, {"rank_pattern": {"head": 8}}])
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "lora.safetensors"])
def test_a_rank_that_is_not_the_matrices_is_refused_as_by_peft(tmp_path, file, field):
    path = described(tmp_path / file, {"lora_alpha": 16} | field)
    with pytest.raises(ConfigError) as error:
        read_adapters(path, "lora")
    assert (error.value.key, error.value.value) == ("lora", path)
    assert "rank 4" in error.value.problem and " 8 in " in error.value.problem


@pytest.mark.parametrize(("stabilised", "scale"), [(True, 8.0), (False, 4.0), (None, 4.0)])
def test_the_rank_divides_by_its_square_root_where_peft_is_asked_to(tmp_path, stabilised, scale):
    fields = {"r": 4, "lora_alpha": 16, "use_rslora": stabilised}
    assert set(scales(described(tmp_path / "adapter_model.safetensors", fields)).values()) == {scale}


def test_peft_s_configuration_counts_beside_a_sole_file_of_any_name_and_of_several_beside_peft_s_own(tmp_path):
    written = described(tmp_path / "adapter_model.safetensors", {"lora_alpha": 12})
    sole = written.rename(tmp_path / "style.safetensors")
    assert set(scales(sole).values()) == {3.0} == set(scales(tmp_path).values())
    (tmp_path / "another.pt").touch()
    assert set(scales(sole).values()) == {1.0}
    assert set(scales(sole.rename(written)).values()) == {3.0}


def test_the_strength_says_that_no_alpha_is_stated_and_that_peft_s_configuration_is_missing(tmp_path):
    path = described(tmp_path / "adapter_model.safetensors", {})
    path.with_name("adapter_config.json").unlink()
    shapes = {f"{to_diffusers(layer)}.weight": (8, 8) for layer in LAYERS}
    for name, missing in ((path.name, True), ("style.safetensors", False)):
        adapters, (line,) = read_loras([(path.rename(tmp_path / name), 1.0)], None, shapes)
        assert {adapter.scale for adapter in adapters.values()} == {1.0} and UNSTATED in line
        assert ("adapter_config.json" in line) == missing


def test_a_pointer_or_page_in_place_of_the_configuration_is_named(tmp_path):
    path = described(tmp_path / "adapter_model.safetensors", {})
    beside = path.with_name("adapter_config.json")
    for text, kind in (("version https://git-lfs.github.com/spec/v1\n", "Git LFS"), ("<!DOCTYPE html>", "web page")):
        beside.write_text(text)
        with pytest.raises(ConfigError) as error:
            read_adapters(path, "lora")
        assert (error.value.key, error.value.value) == ("lora", beside) and kind in error.value.problem
