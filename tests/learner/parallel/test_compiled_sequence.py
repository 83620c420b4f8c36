"""Blocks whose tokens are split over ranks compile to one graph, forward and backward."""

import copy

import pytest
import torch
from torch import distributed

from learner.parallel.sequence import Ulysses
from tests.device.scenario import compiled_blocks
from tests.learner.networks import network


@pytest.fixture
def group():
    """A group of one rank: it exchanges what several exchange, with itself."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_exchanges_of_tokens_are_part_of_one_graph_and_change_no_gradient(group, backend):
    whole, generator = network(0), torch.Generator().manual_seed(0)
    split = copy.deepcopy(whole)
    given = (
        torch.randn(1, 3, 3, 12, 12, generator=generator),
        torch.tensor([900.0]),
        torch.randn(1, 12, 32, generator=generator),
    )
    for part in (split, *split.blocks):
        part.layout = Ulysses(group)
    with compiled_blocks(backend) as counts:
        split.compile_blocks()
        for computed in (whole, split):
            computed(*given).square().sum().backward()
    assert counts == {"graphs": 1, "breaks": 0}
    wanted, found = (
        torch.cat([p.grad.flatten() for p in computed.parameters() if p.grad is not None])
        for computed in (whole, split)
    )
    assert (found - wanted).norm() < 1e-4 * wanted.norm()
