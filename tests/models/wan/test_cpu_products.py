"""Products from laid-out weights are those of `Linear`; freed memory is kept."""

import resource
import sys

import pytest
import torch
from torch import nn

from models.network_config import TINY, WAN_1_3B, WanConfig
from models.wan.cpu_products import LaidOutLinear, keep_freed_memory, lay_out_products
from models.wan.network import ComputeSpec, Wan

WIDE = WanConfig(num_attention_heads=4, attention_head_dim=128, text_dim=64, ffn_dim=1024, num_layers=1)


@pytest.fixture
def products() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(512, 640), nn.Linear(640, 8)).requires_grad_(False)
    lay_out_products(network)
    return network


def plain(product: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, product.weight, product.bias)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_large_products_of_a_network_are_laid_out_and_small_ones_are_not(products):
    assert [type(product) for product in products] == [LaidOutLinear, nn.Linear]
    network = ComputeSpec().outline(WIDE)
    assert type(network.blocks[0].attn1.to_q) is type(network.blocks[0].ffn.net[2]) is LaidOutLinear
    assert list(network.state_dict()) == list(Wan(WIDE).state_dict())
    assert not any(isinstance(module, LaidOutLinear) for module in ComputeSpec().outline(TINY).modules())
    assert not any(isinstance(m, LaidOutLinear) for m in ComputeSpec(torch.device("meta")).outline(WIDE).modules())


def test_a_network_whose_layouts_would_take_much_memory_is_left_alone():
    network = ComputeSpec(dtype=torch.bfloat16).outline(WAN_1_3B)
    assert not any(isinstance(module, LaidOutLinear) for module in network.modules())


@torch.no_grad()
@pytest.mark.parametrize("shape", [(64, 512), (2, 3, 40, 512), (3, 512)])
def test_a_product_is_that_of_linear_for_every_version_of_the_weight(products, shape):
    product, x = products[0], torch.randn(shape)
    for change in ("none", "in place", "assigned"):
        if change == "in place":
            product.weight.mul_(-2)
        elif change == "assigned":
            state = {"weight": torch.randn(640, 512), "bias": torch.randn(640)}
            product.load_state_dict(state, assign=True)
        assert (product(x) - plain(product, x)).norm() <= 1e-6 * plain(product, x).norm()
        layout = product._layout
        product(x)
        assert product._layout is layout, "one layout for each version"


def test_with_gradient_a_product_is_linear_itself(products):
    product, x = products[0], torch.randn(64, 512, requires_grad=True)
    assert torch.equal(product(x), plain(product, x))
    product(x).square().sum().backward()
    assert x.grad is not None and product._layout is None


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_not_handed_out_by_the_kernel_again():
    keep_freed_memory()
    mebibytes, pages = 4, 4 * 2**20 // resource.getpagesize()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.empty(mebibytes * 2**18).fill_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < pages
