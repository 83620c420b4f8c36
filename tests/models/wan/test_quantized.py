"""Quantised products stay near those of the student's own numbers, block after block."""

from importlib.util import find_spec
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.flow_matching import warped_sigmas
from models.kv_cache import RollingCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import ComputeSpec, Wan
from models.wan.quantized import check_quantization, quantize_blocks
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.world_config import SHIPPED_STUDENT

CPU = torch.device("cpu")
STUDENT = StudentConfig()
BLOCKS = 100
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def shipped(numbers: str | None, dtype: torch.dtype = torch.float32) -> Wan:
    network = ComputeSpec(dtype=dtype).outline(STUDENT.wan).to_empty(device=CPU)
    load_weights(network, SHIPPED_STUDENT, "checkpoint")
    quantize_blocks(network, numbers)
    return network


@torch.no_grad()
def first_pass(network: Wan) -> Tensor:
    """The velocity of a first block from noise."""
    dtype = network.proj_out.weight.dtype
    x_t = torch.randn(2, 3, *STUDENT.frame_shape, generator=torch.Generator().manual_seed(1))
    text = network.text_keys_values(encode_text(PROMPTS[:2]).to(dtype))
    return network.run(x_t.to(dtype), torch.full((2, 3), 750.0), text).float()


def rolled_out(network: Wan) -> Tensor:
    """The clean blocks [N 4 3 C H W] of four videos."""
    noise = BlockNoise([3, 4, 5, 6], (STUDENT.block_frames, *STUDENT.frame_shape))
    sigmas, cache = warped_sigmas(STUDENT.timesteps, STUDENT.shift), RollingCache(STUDENT.wan, STUDENT.context_frames)
    text = encode_text(PROMPTS[:4]).to(network.proj_out.weight.dtype)
    return torch.stack(
        [block.x0.float() for block in islice(stream_blocks(network, text, noise, sigmas, cache), BLOCKS)]
    )


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@needs_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_products_change_a_pass_by_little(dtype):
    exact = first_pass(shipped(None))
    assert 0 < distance(first_pass(shipped("int8", dtype)), exact) < 0.05


@needs_torchao
def test_every_product_of_a_block_is_quantised_and_nothing_else():
    network, plain = shipped("int8"), shipped(None)
    changed = {name for name, weight in network.named_parameters() if type(weight.data) is not Tensor}
    modules = plain.blocks.named_modules(prefix="blocks")
    products = {f"{name}.weight" for name, module in modules if isinstance(module, nn.Linear)}
    assert changed == products and len(products) == 10 * STUDENT.wan.num_layers
    assert network.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("numbers", ["int8", "fp8"])
def test_without_torchao_every_number_is_refused(numbers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("models.wan.quantized.find_spec", lambda _: None)
    with pytest.raises(ConfigError) as error:
        check_quantization(numbers, torch.device("cuda"))
    assert error.value.key == "quantize"
    check_quantization(None, torch.device("cuda"))


@needs_torchao
@pytest.mark.parametrize("numbers", ["int8", "fp8"])
def test_a_cpu_computes_no_faster_with_them_and_refuses(numbers):
    with pytest.raises(ConfigError) as error:
        check_quantization(numbers, CPU)
    assert error.value.key == "quantize" and error.value.value == numbers


@needs_torchao
@pytest.mark.parametrize(("numbers", "capability", "fits"), [
    ("fp8", (8, 6), False), ("fp8", (8, 9), True), ("int8", (7, 5), False), ("int8", (8, 0), True),
])  # fmt: skip
def test_a_gpu_without_such_products_is_refused(numbers, capability, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if fits:
        return check_quantization(numbers, torch.device("cuda"))
    with pytest.raises(ConfigError) as error:
        check_quantization(numbers, torch.device("cuda"))
    assert error.value.key == "quantize"


@needs_torchao
@pytest.mark.proof
def test_the_error_of_int8_does_not_grow_over_a_hundred_blocks():
    """Videos part ways by and by, those in bfloat16 from those in float32 too; int8 adds less than as much again."""
    exact, half = rolled_out(shipped(None)), rolled_out(shipped(None, torch.bfloat16))
    eighth, coarse = rolled_out(shipped("int8")), rolled_out(rounded(shipped(None), levels=7))
    by_block = [
        [distance(one, other) for one, other in zip(video, half, strict=True)] for video in (exact, eighth, coarse)
    ]
    print([[round(sum(part) / 20, 4) for part in (of[:20], of[-20:])] for of in by_block], "first and last 20 blocks")
    of_half, of_eighth, of_coarse = map(sum, by_block)
    assert of_eighth < 2 * of_half < of_coarse
    assert sum(by_block[1][-20:]) < sum(by_block[1][:20])
    for blocks in (slice(0, 20), slice(-20, None)):
        assert eighth[blocks].mean() == pytest.approx(float(exact[blocks].mean()), abs=0.02)
        assert eighth[blocks].std() == pytest.approx(float(exact[blocks].std()), rel=0.05)


def rounded(network: Wan, levels: int) -> Wan:
    """The network with its blocks' products rounded to a few levels a row: worse than int8."""
    for module in network.blocks.modules():
        if isinstance(module, nn.Linear):
            step = module.weight.abs().amax(dim=1, keepdim=True) / levels
            module.weight.data.copy_((module.weight / step).round() * step)
    return network
