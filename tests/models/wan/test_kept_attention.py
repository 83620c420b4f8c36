"""Kept results of self-attention: the same gradients, one attention less, in compiled blocks too."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.network_config import TINY
from models.wan.network import Wan


class Attended(TorchDispatchMode):
    """Counts forward calls of attention kernels by whether they are self-attention, of as many keys as queries."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        name = operator.name()
        if "_scaled_dot_product" in name and "backward" not in name:
            self.calls[arguments[0].shape == arguments[1].shape] += 1
        return operator(*arguments, **(options or {}))


def gradients(kept: bool, backend: str | None) -> tuple[list[torch.Tensor], Counter]:
    torch.manual_seed(0)
    network = Wan(TINY)
    network.checkpoint_activations, network.keep_attention = True, kept
    if backend:
        torch._dynamo.reset()
        network.compile_blocks(backend)
    x, text = torch.randn(2, 3, TINY.in_channels, 8, 8), torch.randn(2, 5, TINY.text_dim)
    with Attended() as attended:
        network(x, torch.tensor([500.0, 100.0]), text).square().sum().backward()
    return [p.grad for p in network.parameters() if p.grad is not None], attended.calls


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_kept_attention_is_computed_once_and_gradients_are_the_same_bits(backend):
    (plain, twice), (kept, once) = (gradients(on, backend) for on in (False, True))
    assert len(plain) == len(kept) and all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))
    layers = TINY.num_layers
    assert twice == {True: 2 * layers, False: 2 * layers}
    assert once == {True: layers, False: 2 * layers}, "that to the text costs less than its result holds"
