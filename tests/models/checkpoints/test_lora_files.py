import json
import math
import re
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoints.lora_files import (
    Adapter,
    attach_adapters,
    check_adapters,
    merge_adapters,
    read_adapters,
    read_loras,
)
from models.checkpoints.weight_files import load_weights, save_weights
from models.checkpoints.weight_names import to_original
from models.errors import ConfigError
from models.wan.network import Wan
from tests.models.checkpoints.wan_checkpoints import CONFIG, FIELDS

LAYERS = {
    "blocks.0.attn1.to_q": (24, 24), "blocks.0.attn2.to_out.0": (24, 24), "blocks.1.ffn.net.0.proj": (32, 24),
    "blocks.1.ffn.net.2": (24, 32), "condition_embedder.time_proj": (144, 24),
}  # fmt: skip
RANK = 3


def network() -> Wan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Wan(CONFIG).eval()


def matrices() -> dict[str, tuple[Tensor, Tensor]]:
    """down [rank D_in] and up [D_out rank] of each adapted layer."""
    generator = torch.Generator().manual_seed(3)
    return {
        layer: (torch.randn(RANK, inner, generator=generator), torch.randn(outer, RANK, generator=generator))
        for layer, (outer, inner) in LAYERS.items()
    }


def named(pattern: str, down: str, up: str, spoken=str) -> dict[str, Tensor]:
    tensors = {}
    for layer, pair in matrices().items():
        for role, tensor in zip((down, up), pair, strict=True):
            tensors[pattern.format(spoken(layer)) + f".{role}.weight"] = tensor
    return tensors


def underscored(layer: str) -> str:
    return to_original(layer).replace(".", "_")


def alphas(pattern: str, alpha: float, spoken=str) -> dict[str, Tensor]:
    return {pattern.format(spoken(layer)) + ".alpha": torch.tensor(alpha) for layer in LAYERS}


def expected(scale: float) -> dict[str, Tensor]:
    """Every weight of the network, with scale * up @ down added one number at a time."""
    tensors = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    for layer, (down, up) in matrices().items():
        for i, row in enumerate(up):
            for j, column in enumerate(down.T):
                tensors[f"{layer}.weight"][i, j] += scale * sum(a * b for a, b in zip(row, column, strict=True))
    return tensors


def write(path: Path, tensors: dict[str, Tensor], metadata: dict | None = None, beside: dict | None = None) -> Path:
    header = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
    save_file(tensors, path, header)
    if beside:
        path.with_name("adapter_config.json").write_text(json.dumps(beside))
    return path


def saved(path: Path, held: object) -> Path:
    torch.save(held, path)
    return path


DIFFUSERS = named("transformer.{}", "lora_A", "lora_B")
COMFY = named("diffusion_model.{}", "lora_down", "lora_up", to_original)
KOHYA = named("lora_unet_{}", "lora_down", "lora_up", underscored)
PEFT = named("base_model.model.{}", "lora_A", "lora_B")
LONGLIVE = named("base_model.model.{}", "lora_A", "lora_B", to_original)
FORMS = {
    "diffusers": (1, lambda at: write(at, DIFFUSERS)),
    "diffusers with metadata": (2, lambda at: write(at, DIFFUSERS, {"transformer.lora_alpha": 6})),
    "diffusers with patterns": (
        4,
        lambda at: write(
            at, DIFFUSERS, {"transformer.lora_alpha": 6, "transformer.alpha_pattern": dict.fromkeys(LAYERS, 12)}
        ),
    ),
    "without a prefix": (1, lambda at: write(at, named("{}", "lora_A", "lora_B"))),
    "with the name of an adapter": (1, lambda at: write(at, named("{}", "lora_A.default", "lora_B.default"))),
    "peft with its config": (0.5, lambda at: write(at, PEFT, beside={"r": RANK, "lora_alpha": 1.5})),
    "peft in a file of torch, with its config": (
        4,
        lambda at: saved(
            write(at, PEFT, beside={"lora_alpha": 4 * RANK, "bias": "none"}).with_suffix(".bin"), PEFT
        ),
    ),
    "peft, rank-stabilised": (
        6 / RANK**0.5, lambda at: write(at, PEFT, beside={"lora_alpha": 6, "use_rslora": True}),
    ),
    "down and up with alpha": (0.5, lambda at: write(at, COMFY | alphas("diffusion_model.{}", 1.5, to_original))),
    "kohya": (0.5, lambda at: write(at, KOHYA | alphas("lora_unet_{}", 1.5, underscored))),
    "original names, A and B": (1, lambda at: write(at, named("diffusion_model.{}", "lora_A", "lora_B", to_original))),
    "LongLive": (
        1, lambda at: saved(at.with_suffix(".pt"), {"generator_lora": LONGLIVE, "critic_lora": PEFT, "step": 3}),
    ),
}  # fmt: skip


@pytest.fixture(params=FORMS)
def form(request, tmp_path) -> tuple[float, Path]:
    scale, write_it = FORMS[request.param]
    return scale, write_it(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_merged_weights_are_those_of_the_formula(form, strength):
    scale, path = form
    found = dict(merge_adapters(network().state_dict().items(), read_adapters(path, "lora", strength)))
    for name, tensor in expected(scale * strength).items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=3e-6)


def test_live_adapters_compute_what_merged_ones_do(form):
    _, path = form
    adapters = read_adapters(path, "lora")
    live, whole = network(), network()
    attach_adapters(live, adapters)
    whole.load_state_dict(dict(merge_adapters(whole.state_dict().items(), adapters)))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(1, 3, 2, 4, 6, generator=generator), torch.tensor([500.0]), torch.randn(1, 5, 8)
    with torch.no_grad():
        difference = (live(*inputs) - whole(*inputs)).norm() / whole(*inputs).norm()
        assert difference <= 1e-5 and not torch.allclose(network()(*inputs), whole(*inputs), rtol=1e-2)
    trained = {name for name, parameter in live.named_parameters() if parameter.requires_grad}
    assert trained == {f"{layer}.lora_{side}.default.weight" for layer in LAYERS for side in "AB"}


def test_adapters_are_merged_while_a_checkpoint_is_loaded(tmp_path):
    save_weights(network().state_dict(), tmp_path / "w.safetensors", {})
    adapters = read_adapters(write(tmp_path / "lora.safetensors", DIFFUSERS), "lora", 2.0)
    with torch.random.fork_rng():
        filled = Wan(CONFIG)
    load_weights(filled, tmp_path / "w.safetensors", "init", adapters=adapters)
    for name, tensor in expected(2.0).items():
        torch.testing.assert_close(filled.state_dict()[name], tensor, rtol=0, atol=3e-6)


def test_half_precision_is_merged_in_float32():
    weight = torch.randn(24, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    down, up = matrices()["blocks.0.attn1.to_q"]
    ((_, found),) = merge_adapters([("x.weight", weight)], {"x": Adapter(down, up, 1e-4)})
    assert found.dtype == torch.float32 and torch.equal(found, weight.float() + 1e-4 * (up @ down))


def test_what_diffusers_saves_and_fuses_is_what_is_merged_here(tmp_path):
    from diffusers import WanPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    stock = WanTransformer3DModel(**FIELDS)
    stock.load_state_dict(network().state_dict())
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_v", "net.2"], init_lora_weights=False)
    stock.add_adapter(config)
    WanPipeline.save_lora_weights(
        tmp_path, get_peft_model_state_dict(stock, adapter_name="default"),
        transformer_lora_adapter_metadata=config.to_dict(),
    )  # fmt: skip
    adapters = read_adapters(tmp_path / "pytorch_lora_weights.safetensors", "lora", 0.7)
    stock.fuse_lora(lora_scale=0.7)
    stock.unload_lora()
    found = dict(merge_adapters(network().state_dict().items(), adapters))
    assert len(adapters) == 10 and found.keys() == stock.state_dict().keys()
    for name, tensor in stock.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_a_folder_means_the_file_that_diffusers_or_peft_puts_there(tmp_path):
    with pytest.raises(ConfigError) as error:
        read_adapters(tmp_path, "lora")
    assert (error.value.key, error.value.value) == ("lora", tmp_path) and "pytorch_lora_weights" in error.value.problem
    write(tmp_path / "adapter_model.safetensors", PEFT, beside={"lora_alpha": 6})
    assert {adapter.scale for adapter in read_adapters(tmp_path, "lora").values()} == {2.0}


def test_the_config_of_peft_belongs_to_the_file_that_peft_writes_and_to_no_other(tmp_path):
    for name, scale in (("adapter_model.safetensors", 2.0), ("other.safetensors", 1.0)):
        path = write(tmp_path / name, PEFT, beside={"lora_alpha": 6})
        assert {adapter.scale for adapter in read_adapters(path, "lora").values()} == {scale}


@pytest.mark.parametrize(
    "pattern",
    [r"blocks\.\d+\.attn[12]\.to_(q|out\.0)", "to_q|to_out.0", "blocks.0.attn1.to_q", "attn1.to_q"],
)
def test_alphas_are_chosen_by_patterns_as_peft_chooses_them(pattern, tmp_path):
    from peft import LoraConfig, inject_adapter_in_model

    config = {"lora_alpha": 6, "alpha_pattern": {pattern: 12}}
    adapters = read_adapters(write(tmp_path / "adapter_model.safetensors", PEFT, beside=config), "lora")
    stock = inject_adapter_in_model(LoraConfig(r=RANK, target_modules=list(LAYERS), **config), network())
    scales = {layer: stock.get_submodule(layer).scaling["default"] for layer in LAYERS}
    assert {layer: adapter.scale for layer, adapter in adapters.items()} == scales


CHANGES = {
    "use_dora": True, "peft_type": "LOKR", "bias": "all", "modules_to_save": ["proj_out"], "fan_in_fan_out": True,
    "lora_bias": True, "init_lora_weights": "pissa", "target_parameters": ["a"],
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("kind", ["safetensors", "bin", "header"])
def test_a_field_that_makes_more_than_a_plain_lora_is_refused_by_its_name(tmp_path, field, kind):
    described = {"lora_alpha": 6, field: CHANGES[field]}
    if kind == "header":
        path = write(tmp_path / "x.safetensors", PEFT, metadata={f"transformer.{n}": v for n, v in described.items()})
    else:
        path = write(tmp_path / "adapter_model.safetensors", PEFT, beside=described)
        if kind == "bin":
            path.unlink()
            path = saved(path.with_suffix(".bin"), PEFT)
    with pytest.raises(ConfigError) as error:
        read_adapters(path.parent if kind == "bin" else path, "lora")
    assert (error.value.key, error.value.value) == ("lora", path) and f"{field}=" in error.value.problem


def test_the_strength_that_counts_is_told_with_the_place_of_its_alpha(tmp_path):
    path = write(tmp_path / "adapter_model.safetensors", PEFT, beside={"lora_alpha": 4 * RANK})
    shapes = {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}
    adapters, lines = read_loras([(path, 0.5)], None, shapes)
    assert {adapter.scale for adapter in adapters.values()} == {2.0} and len(lines) == 1
    facts = (str(path), f"{len(LAYERS)} layers at 2 ", "strength 0.5", "alpha 12 (adapter_config.json)", f"rank {RANK}")
    assert all(fact in lines[0] for fact in facts)


@pytest.mark.parametrize(("part", "other"), [(None, "generator_ema"), ("generator_ema", "generator_lora")])
def test_the_set_that_is_taken_of_several_is_named_with_the_others(part, other, tmp_path):
    halves = {name: 0.5 * tensor for name, tensor in LONGLIVE.items()}
    path = saved(tmp_path / "x.pt", {"generator_ema": halves, "generator_lora": LONGLIVE, "step": 3})
    shapes = {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}
    adapters, (line,) = read_loras([(path, 1.0)], part, shapes)
    factor = 0.5 if part else 1.0
    assert torch.equal(adapters["blocks.0.attn1.to_q"].up, factor * matrices()["blocks.0.attn1.to_q"][1])
    taken = line.index(part or "generator_lora")
    assert line.startswith(f"lora={path}: ") and taken < line.index(other) and "step" not in line
    assert "set " not in read_loras([(saved(path, {"generator_lora": LONGLIVE}), 1.0)], None, shapes)[1][0]


def test_several_loras_add_up_with_their_strengths_merged_and_live(tmp_path):
    halves = {name: 0.5 * tensor for name, tensor in DIFFUSERS.items()}
    one, two = write(tmp_path / "a.safetensors", DIFFUSERS), write(tmp_path / "b.safetensors", halves)
    differences = {"diffusion_model.blocks.0.norm3.diff": torch.ones(24)}
    three = write(tmp_path / "c.safetensors", differences)
    shapes = {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}
    adapters, lines = read_loras([(one, 1.0), (two, -2.0), (three, 0.5)], None, shapes)
    found = dict(merge_adapters(network().state_dict().items(), adapters))
    for name, tensor in expected(1.0 - 2.0 * 0.25).items():
        change = 0.5 if name == "blocks.0.norm2.weight" else 0.0
        torch.testing.assert_close(found[name], tensor + change, rtol=0, atol=3e-6)
    assert len(lines) == 3 and "1 whole differences at 0.5" in lines[2]
    live, whole = network(), network()
    attach_adapters(live, adapters)
    whole.load_state_dict(found)
    inputs = torch.ones(1, 3, 2, 4, 6), torch.tensor([500.0]), torch.ones(1, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(live(*inputs), whole(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_an_alpha_that_is_not_finite_is_refused(alpha, tmp_path):
    beside, own = tmp_path / "adapter_model.safetensors", tmp_path / "own.safetensors"
    write(beside, PEFT, beside={"lora_alpha": alpha})
    write(own, COMFY | alphas("diffusion_model.{}", alpha, to_original))
    for path in (beside, own):
        with pytest.raises(ConfigError) as error:
            read_adapters(path, "lora")
        assert error.value.key == "lora" and re.search(rf"\b{alpha}\b", error.value.problem)


@pytest.mark.parametrize("alpha", [2**70, 10**400, 1e300])
def test_an_alpha_beyond_any_lora_s_is_refused_in_a_line(alpha, tmp_path):
    path = saved(tmp_path / "x.pt", DIFFUSERS | {"transformer.blocks.0.attn1.to_q.alpha": alpha})
    with pytest.raises(ConfigError) as error:
        read_adapters(path, "lora")
    assert (error.value.key, error.value.value) == ("lora", path) and "alpha" in error.value.problem


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["down", "up", "difference"])
def test_a_number_that_is_not_finite_is_the_lora_s_fault_merged_or_live(number, kind, tmp_path):
    change = {
        "down": "transformer.blocks.0.attn1.to_q.lora_A.weight", "up": "transformer.blocks.1.ffn.net.2.lora_B.weight",
        "difference": "transformer.blocks.0.norm2.diff",
    }  # fmt: skip
    tensors = {name: tensor.clone() for name, tensor in (DIFFUSERS | {change["difference"]: torch.ones(24)}).items()}
    assert len(read_adapters(write(tmp_path / "x.safetensors", tensors), "lora")) == len(LAYERS) + 1
    tensors[change[kind]].view(-1)[-1] = number
    path = write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(ConfigError) as error:  # before it is merged or attached
        read_adapters(path, "lora")
    assert (error.value.key, error.value.value) == ("lora", path) and change[kind] in error.value.problem


def drop(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in DIFFUSERS.items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, ""),
        (drop("transformer.blocks.0.attn1.to_q.lora_B.weight"), "blocks.0.attn1.to_q"),
        (DIFFUSERS | {"transformer.proj_out.delta": torch.ones(1)}, "transformer.proj_out.delta"),
        (DIFFUSERS | {"blocks.0.attn1.to_q.lora_A.weight": torch.ones(3, 24)}, ""),
        (DIFFUSERS | {"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(4, 24)}, "[4, 24]"),
        (
            DIFFUSERS | {"proj_out.lora_A.weight": torch.ones(0, 24), "proj_out.lora_B.weight": torch.ones(8, 0)},
            "[0, 24]",
        ),
        (DIFFUSERS | {"transformer.blocks.0.attn1.to_q.alpha": torch.ones(2)}, "[2]"),
    ],
)
def test_what_is_no_lora_is_refused_by_name(tmp_path, tensors, said):
    path = write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(ConfigError) as error:
        read_adapters(path, "lora")
    assert (error.value.key, error.value.value) == ("lora", path) and said in error.value.problem


def test_a_checkpoint_is_no_lora_and_says_which_names_are_unknown(tmp_path):
    save_weights(network().state_dict(), tmp_path / "w.safetensors", {})
    with pytest.raises(ConfigError) as error:
        read_adapters(tmp_path / "w.safetensors", "lora")
    assert re.search(r"weight.* \d+ ", error.value.problem), "some by name, the rest counted"


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "3",
        '{"rank_pattern": [1]}',
        '{"alpha_pattern": [[1, 2]]}',
        '{"transformer.alpha_pattern": {"(": 1}}',
        '{"transformer.lora_alpha": "six"}',
        '{"transformer.lora_alpha": 1' + 400 * "0" + "}",
        '{"transformer.lora_alpha": 1' + 5000 * "0" + "}",
        '{"transformer.alpha_pattern": {"0": 1e300}}',
        '{"alpha_pattern": {"a{99999999999}": 1}}',
        9999 * '{"r":',
        '{"transformer.use_rslora": "false"}',
        '{"transformer.r": "3"}',
        '{"transformer.r": 0}',
        '{"transformer.r": true}',
        '{"transformer.rank_pattern": {"0": 3.0}}',
    ],
)
def test_metadata_that_cannot_be_read_is_refused(tmp_path, metadata):
    save_file(DIFFUSERS, tmp_path / "x.safetensors", {"lora_adapter_metadata": metadata})
    with pytest.raises(ConfigError) as error:
        read_adapters(tmp_path / "x.safetensors", "lora")
    assert error.value.key == "lora" and "metadata" in error.value.problem


def test_adapters_of_another_network_are_refused_by_layer_and_sizes(tmp_path):
    adapters = read_adapters(write(tmp_path / "x.safetensors", DIFFUSERS), "lora")
    shapes = {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}
    check_adapters(adapters, shapes)
    with pytest.raises(ConfigError) as error:
        check_adapters(adapters, shapes | {"blocks.1.ffn.net.2.weight": (24, 64)})
    assert all(fact in error.value.problem for fact in ("blocks.1.ffn.net.2", "(24, 32)", "(24, 64)"))
    del shapes["blocks.1.ffn.net.2.weight"]
    with pytest.raises(ConfigError) as error:
        check_adapters(adapters, shapes)
    assert error.value.key == "lora" and "blocks.1.ffn.net.2" in error.value.problem
