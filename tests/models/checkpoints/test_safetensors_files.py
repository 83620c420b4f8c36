import pytest
import torch
from safetensors.torch import load_file

from models.checkpoints.safetensors_files import Stored, open_safetensors, write_tensors

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "odd bytes": torch.ones(3, dtype=torch.bfloat16),
    "scalar": torch.tensor(1.5, dtype=torch.float64),
    "empty": torch.empty(0, 4),
    "after": torch.arange(5).half(),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}
PLAN = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}


def test_what_is_written_one_by_one_is_what_the_library_reads(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, PLAN, iter(TENSORS.items()))
    found = load_file(path)
    assert found.keys() == TENSORS.keys() and open_safetensors(path, "init").stored == PLAN
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_tensors_are_cast_to_the_planned_type(tmp_path):
    plan = {name: Stored(stored.shape, torch.bfloat16) for name, stored in PLAN.items()}
    write_tensors(tmp_path / "x.safetensors", plan, iter(TENSORS.items()))
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(tensor, TENSORS[name].bfloat16())


def test_one_tensor_at_a_time_is_asked_for_and_let_go(tmp_path):
    alive = []

    def tensors():
        for name, stored in PLAN.items():
            tensor = torch.zeros(stored.shape, dtype=stored.dtype)
            yield name, tensor
            alive.append(name)

    write_tensors(tmp_path / "x.safetensors", PLAN, tensors())
    assert alive == list(PLAN)


def test_the_sizes_of_a_tensor_are_bytes():
    assert Stored((2, 3), torch.bfloat16).size == 12 and Stored((), torch.float64).size == 8


def test_tensors_in_another_order_or_number_are_our_own_mistake(tmp_path):
    with pytest.raises(AssertionError):
        write_tensors(tmp_path / "x", PLAN, reversed(TENSORS.items()))
    with pytest.raises(ValueError, match="shorter"):
        write_tensors(tmp_path / "x", PLAN, list(TENSORS.items())[:-1])
