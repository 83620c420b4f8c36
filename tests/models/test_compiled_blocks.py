"""Compiled blocks compute what they are; each length of the past is a graph, and a full cache needs no new one."""

from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor, fx

from models.causal import Past, denoise_window
from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache, RollingCache
from models.network_config import TINY
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import Wan
from tests.models.checkpoints.stock import same_weights, stock_class

SHAPE = 3, TINY.in_channels, 8, 8
SIGMAS = warped_sigmas([1000, 500], shift=3)


def network() -> Wan:
    return same_weights(stock_class(TINY, torch.float32), TINY)


def blocks_of(student: Wan, sink: int, cache: type = RollingCache):
    text = torch.randn(2, 5, TINY.text_dim, generator=torch.Generator().manual_seed(1))
    return stream_blocks(student, text, BlockNoise([1, 2], SHAPE), SIGMAS, cache(TINY, 6, sink))


def video(student: Wan, sink: int) -> Tensor:
    return torch.cat([block.x0 for block in islice(blocks_of(student, sink), 7)], dim=1)


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
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


def counting(shapes: list) -> Callable:
    """Make a backend that runs graphs as they are, and appends the shapes of each to `shapes`."""

    def counted(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
        shapes.append([x.shape for x in inputs if isinstance(x, Tensor)])
        return graph.forward

    return counted


@pytest.mark.parametrize("cache", [KVCache, RollingCache])
@pytest.mark.parametrize(("sink", "lengths"), [(0, [1, 2, 3, 3, 3, 3, 3]), (3, [1, 2, 3, 4, 4, 4, 4])])
def test_all_layers_and_passes_share_one_graph_of_static_shapes_for_each_length_of_the_past(sink, lengths, cache):
    compiled, shapes = network(), []
    compiled.compile_blocks(counting(shapes))
    blocks, graphs = blocks_of(compiled, sink, cache), []
    for _ in lengths:
        next(blocks)
        graphs.append(len(shapes))
    assert graphs == lengths
    assert all(isinstance(size, int) for graph in shapes for shape in graph for size in shape)
    assert torch._dynamo.utils.counters["graph_break"] == {}


@pytest.mark.parametrize("kept", [False, True])
def test_a_learner_step_has_no_graph_break(kept):
    compiled, shapes = network().requires_grad_(True), []
    compiled.checkpoint_activations, compiled.keep_attention = True, kept
    compiled.compile_blocks(counting(shapes))
    x, text = torch.randn(1, 6, *SHAPE[1:]), torch.randn(1, 5, TINY.text_dim)
    past = Past(torch.zeros(1, 3, *SHAPE[1:]), (0,), (0,), (0,))
    keys_values = compiled.text_keys_values(text)
    denoise_window(compiled, x, torch.zeros(1, 6), keys_values, past, x[:, :3], 3, 6).square().sum().backward()
    assert shapes and all(block.ffn.net[2].weight.grad is not None for block in compiled.blocks)
    assert torch._dynamo.utils.counters["graph_break"] == {}


@pytest.mark.core
@pytest.mark.proof
def test_windows_with_filler_share_graphs_however_much_they_have():
    """Else laws of early windows would pass the limit on graphs, and torch would continue uncompiled."""
    compiled, shapes, counts = network(), [], []
    compiled.compile_blocks(counting(shapes))
    pairs = [(history, filler) for history in (0, 3, 6, 9) for filler in range(0, history + 1, 3)]
    x, text = torch.randn(1, 6, *SHAPE[1:]), torch.randn(1, 5, TINY.text_dim)
    for history, filler in [*pairs, *pairs]:
        past = Past(torch.zeros(1, history, *SHAPE[1:]), (filler,), (0,), (0,))
        for gradient in (False, True):
            with torch.set_grad_enabled(gradient):
                keys_values = compiled.text_keys_values(text)
                denoise_window(compiled, x, torch.zeros(1, 6), keys_values, past, x[:, :3], 3, 6)
        counts.append(len(shapes))
    # 3 lengths of clean frames before the window, with filler and without. Each leaves keys of its own strides, behind
    # which are clean frames and, with gradient and without, noisy ones; these too without any frame before them. 3 own
    # clean frames are as 3 frames before a window.
    assert counts[len(pairs) - 1] == 3 * 2 + 3 * (3 * 2 + 1) - 1
    assert counts[-1] == counts[len(pairs) - 1]
    assert torch._dynamo.utils.counters["graph_break"] == {}
