"""Compiled blocks compute what they are; each length of the past is a graph, and a full cache needs no new one."""

from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor, fx

from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.network_config import TINY
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import Wan
from tests.models.checkpoints.stock import same_weights, stock_class

SHAPE = 3, TINY.in_channels, 8, 8
SIGMAS = warped_sigmas([1000, 500], shift=3)


def network() -> Wan:
    return same_weights(stock_class(TINY, torch.float32), TINY)


def blocks_of(student: Wan, sink: int):
    text = torch.randn(2, 5, TINY.text_dim, generator=torch.Generator().manual_seed(1))
    return stream_blocks(student, text, BlockNoise([1, 2], SHAPE), SIGMAS, KVCache(TINY, 6, sink))


def video(student: Wan, sink: int) -> Tensor:
    return torch.cat([block.x0 for block in islice(blocks_of(student, sink), 7)], dim=1)


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("sink", [0, 3])
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.proof])]
)
def test_compiled_blocks_make_the_same_video(backend, sink):
    compiled = network()
    compiled.compile_blocks(backend)
    fast, plain = video(compiled, sink), video(network(), sink)
    assert (fast - plain).norm() <= 1e-6 * plain.norm()


@pytest.mark.parametrize(("sink", "lengths"), [(0, [1, 2, 3, 3, 3, 3, 3]), (3, [1, 2, 3, 4, 4, 4, 4])])
def test_all_layers_and_passes_share_one_graph_of_static_shapes_for_each_length_of_the_past(sink, lengths):
    shapes = []

    def counted(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
        shapes.append([x.shape for x in inputs if isinstance(x, Tensor)])
        return graph.forward

    compiled = network()
    compiled.compile_blocks(counted)
    blocks, graphs = blocks_of(compiled, sink), []
    for _ in lengths:
        next(blocks)
        graphs.append(len(shapes))
    assert graphs == lengths
    assert all(isinstance(size, int) for graph in shapes for shape in graph for size in shape)
