"""Measure how fast this machine computes a network's products and its attention, with nothing beside them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from cluster.planning import flops
from models.network_config import StudentConfig, WanConfig

_PRODUCT = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the product that the peak is measured with."""


def block_seconds(make: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the mean time of `count` calls, one after the other."""
    if device.type == "cpu":
        started = time.perf_counter()
        for _ in range(count):
            make()
        return (time.perf_counter() - started) / count
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(count):
        make()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000 / count


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Return the best rate of one large product, which no other work can beat."""
    size = _PRODUCT[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, b, out=out)

    block_seconds(multiply, 3, device)
    return 2.0 * size**3 / min(block_seconds(multiply, 5, device) for _ in range(repeats))


@dataclass(frozen=True)
class BlockFlops:
    """Counts the operations of the transformer's blocks for one block of frames with a full cache.

    Unlike `flops.rollout_flops` without what the read leaves out: the last layer but for its keys and values.
    """

    products: float
    attention: float

    @classmethod
    def of(cls, student: StudentConfig) -> "BlockFlops":
        wan, tokens = student.wan, student.wan.tokens_per_frame(student.height, student.width)
        queries, keys = student.block_frames * tokens, student.attention_frames * tokens
        layers = (len(student.timesteps) + 1) * wan.num_layers - 1
        attention = 4.0 * layers * queries * wan.dim * (keys + wan.text_len)
        every = flops.pass_flops(wan, queries, keys, layers)
        return cls(every - attention + 4.0 * queries * wan.dim**2, attention)

    def least_seconds(self, product_rate: float, attention_rate: float) -> float:
        """Return the time in which a machine of these rates, in FLOP/s, computes them and nothing else."""
        return self.products / product_rate + self.attention / attention_rate


class ShapeRates:
    """Times the bare products of one layer in one pass, and its bare attention, at the sizes of a full cache."""

    def __init__(self, student: StudentConfig, device: torch.device, dtype: torch.dtype):
        wan, tokens = student.wan, student.wan.tokens_per_frame(student.height, student.width)
        self.device = device
        queries, keys = student.block_frames * tokens, student.attention_frames * tokens
        self.layer = _one_layer(wan, queries, keys)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device, dtype=dtype)

        sizes = [*6 * [(wan.dim, wan.dim)], (wan.ffn_dim, wan.dim), (wan.dim, wan.ffn_dim)]
        self.products = [(random(queries, size[1]), random(*size), random(size[0])) for size in sizes]
        heads = wan.num_attention_heads, wan.attention_head_dim
        self.attentions = [
            tuple(random(1, heads[0], count, heads[1]) for count in (queries, seen, seen))
            for seen in (keys, wan.text_len)
        ]

    def measure(self, repeats: int = 3) -> tuple[float, float]:
        """Return the best rates of the products and of the attention, in FLOP/s."""

        def products() -> None:
            for x, weight, bias in self.products:
                functional.linear(x, weight, bias)

        def attention() -> None:
            for queries, keys, values in self.attentions:
                functional.scaled_dot_product_attention(queries, keys, values)

        with torch.no_grad():
            best = [min(block_seconds(work, 2, self.device) for _ in range(repeats)) for work in (products, attention)]
        return self.layer.products / best[0], self.layer.attention / best[1]


def _one_layer(wan: WanConfig, queries: int, keys: int) -> BlockFlops:
    attention = 4.0 * queries * wan.dim * (keys + wan.text_len)
    return BlockFlops(flops.pass_flops(wan, queries, keys, 1) - attention, attention)
