"""flash-attn takes what it can, where it is installed; everything else is torch's, and nobody sees a difference."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from models.wan import flash_attention
from models.wan.attention import Visibility, attend


@pytest.mark.parametrize(
    ("installed", "capability", "chosen"),
    [
        ((), (9, 0), None),
        (("flash_attn",), (7, 5), None),
        (("flash_attn",), (8, 0), "flash_attn"),
        (("flash_attn",), (8, 9), "flash_attn"),
        (("flash_attn",), (9, 0), None),
        (("flash_attn_interface",), (8, 9), None),
        (("flash_attn_interface",), (9, 0), "flash_attn_interface"),
        (("flash_attn_interface", "flash_attn"), (8, 0), "flash_attn"),
        (("flash_attn_interface", "flash_attn"), (9, 0), "flash_attn_interface"),
        (("flash_attn_interface", "flash_attn"), (12, 0), None),
    ],
)
def test_the_fastest_kernel_of_the_gpu_is_chosen(installed, capability, chosen):
    assert flash_attention.select_module(installed.__contains__, capability) == chosen


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "rows", "fitting"),
    [
        ("cuda", torch.bfloat16, 128, 2, True),
        ("cuda", torch.float16, 256, 2, True),
        ("cuda", torch.float32, 128, 2, False),
        ("cuda", torch.bfloat16, 264, 2, False),
        ("cuda", torch.bfloat16, 128, 1, False),
        ("cpu", torch.bfloat16, 128, 2, False),
    ],
)
def test_a_kernel_gets_half_precision_on_a_gpu_with_a_row_of_keys_for_each_row_of_queries(
    device, dtype, head_dim, rows, fitting
):
    with FakeTensorMode():  # knows devices that are not here
        queries = torch.empty(2, 3, 4, head_dim, device=device, dtype=dtype)
        keys = torch.empty(rows, 5, 4, head_dim, device=device, dtype=dtype)
    assert flash_attention.supports(queries, keys) is fitting


def test_compiled_code_has_the_chosen_kernel_in_one_graph(monkeypatch):
    def doubled(queries, keys, values):
        return 2 * queries, keys

    monkeypatch.setattr(flash_attention, "_selected", ["doubles"])
    monkeypatch.setitem(flash_attention._loaded, "doubles", doubled)
    compiled = torch.compile(
        lambda x: flash_attention.flash_attend(flash_attention.selected_module(), x, x, x) + 1,
        backend="eager",
        fullgraph=True,
    )
    x = torch.arange(3.0)
    assert torch.equal(compiled(x), 2 * x + 1)


@pytest.mark.gpu
@pytest.mark.parametrize("gradient", [False, True])
def test_on_a_gpu_attention_is_that_of_float64_on_the_cpu_with_any_kernel(gradient):
    if flash_attention.selected_module() is None:
        pytest.skip("flash-attn is not installed")
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, tokens, 3, 128, generator=generator) for tokens in (70, 200, 200)]
    exact = [x.bfloat16().double().requires_grad_(gradient) for x in exact]
    near = [x.detach().to("cuda", torch.bfloat16).requires_grad_(gradient) for x in exact]
    seen = (slice(10, 90), slice(120, 200))
    for visibility in (None, Visibility(((slice(0, 70), seen),), (None,))):
        wanted, found = attend(*exact, visibility), attend(*near, visibility)
        torch.testing.assert_close(found.double().cpu(), wanted, rtol=0, atol=2e-2)
        if gradient:
            wanted_slopes = torch.autograd.grad(wanted.square().sum(), exact)
            for slope, near_slope in zip(wanted_slopes, torch.autograd.grad(found.square().sum(), near), strict=True):
                assert (near_slope.double().cpu() - slope).norm() <= 2e-2 * slope.norm()
