"""Two sets of tensors have one fingerprint exactly if they are bit-equal."""

import pytest
import torch

from models.fingerprint import WeightsDiffer, fingerprint
from models.records import Weights


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (64, 96), "b": (64, 96), "odd": (13, 7), "scalar": (), "empty": (0, 4)}
    return {name: torch.randn(shape, generator=generator).to(torch.bfloat16) for name, shape in shapes.items()}


def test_equal_bytes_have_equal_fingerprints_in_any_order_layout_and_alignment(tensors):
    expected = fingerprint(tensors)
    assert fingerprint({name: tensors[name].clone() for name in reversed(tensors)}) == expected
    transposed = tensors | {"a": tensors["a"].t().contiguous().t()}
    assert not transposed["a"].is_contiguous() and fingerprint(transposed) == expected
    shifted = torch.empty(tensors["a"].numel() + 1, dtype=torch.bfloat16)[1:].view_as(tensors["a"])
    assert fingerprint(tensors | {"a": shifted.copy_(tensors["a"])}) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64])
@pytest.mark.parametrize("size", [1, 5, 255, 256, 257, 5000])
def test_every_changed_element_is_noticed(dtype, size):
    tensor = torch.arange(size).to(dtype)
    expected = fingerprint({"a": tensor})
    for place in {0, size // 2, size - 1}:
        changed = tensor.clone()
        changed.view(torch.uint8)[place * tensor.element_size()] ^= 1
        assert fingerprint({"a": changed}) != expected


def test_the_sign_of_zero_is_noticed():
    assert fingerprint({"a": torch.tensor([0.0])}) != fingerprint({"a": torch.tensor([-0.0])})


def test_exchanged_tensors_rows_names_dtypes_and_shapes_are_noticed(tensors):
    others = [
        tensors | {"a": tensors["b"], "b": tensors["a"]},
        tensors | {"a": tensors["a"].roll(32, 0)},
        tensors | {"a": tensors["a"].flip(0)},
        {name.replace("odd", "even"): tensor for name, tensor in tensors.items()},
        tensors | {"a": tensors["a"].view(torch.int16)},
        tensors | {"a": tensors["a"].reshape(96, 64)},
        {name: tensor for name, tensor in tensors.items() if name != "empty"},
        {},
    ]
    found = {fingerprint(other) for other in [tensors, *others]}
    assert len(found) == len(others) + 1


def test_a_network_that_kept_one_stale_tensor_is_refused_by_version():
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    published = Weights(7, state, fingerprint(state))
    stale = network.state_dict()["1.bias"].clone()
    network.load_state_dict(published.tensors, assign=True)
    published.check(network.state_dict())
    network.load_state_dict(published.tensors | {"1.bias": stale}, assign=True)
    with pytest.raises(WeightsDiffer, match="version 7"):
        published.check(network.state_dict())


@pytest.mark.gpu
def test_the_fingerprint_is_the_same_on_a_gpu(tensors):
    assert fingerprint({name: tensor.cuda() for name, tensor in tensors.items()}) == fingerprint(tensors)
