"""A version of the weights as a value: the same bytes on the other side, and a number of its own."""

import itertools
import pickle

import pytest
import torch

from cluster.weights.version import WeightsVersion, version_numbers
from models.fingerprint import fingerprint
from models.network_config import TINY
from models.wan.network import Wan


def travelled(weights):
    """As on Ray: pickled with buffers out of band, which the reader may not write to."""
    buffers = []
    data = pickle.dumps(weights, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[memoryview(bytes(buffer.raw())) for buffer in buffers])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_version_that_travelled_has_the_same_bytes_with_the_learners_fingerprint(dtype):
    tensors = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7).to(dtype), "c": torch.randn(()).to(dtype)}
    received = travelled(WeightsVersion.of(4, 2, tensors, dtype))
    assert (received.version, received.update, received.fingerprint) == (4, 2, fingerprint(tensors))
    for name, tensor in tensors.items():
        assert received.tensors[name].dtype == dtype and torch.equal(received.tensors[name], tensor)


def test_a_version_is_published_in_the_dtype_that_actors_compute_in_and_copies_no_tensor_that_has_it():
    tensors = {"a": torch.randn(8), "b": torch.randn(8).bfloat16()}
    weights = WeightsVersion.of(0, 0, tensors, torch.bfloat16)
    assert weights.tensors["a"].dtype == torch.bfloat16 and weights.tensors["b"] is tensors["b"]
    assert sum(tensor.nbytes for tensor in weights.tensors.values()) == 32


def test_a_network_that_took_a_version_by_pointer_computes_the_same_and_leaves_it_alone():
    torch.manual_seed(0)
    learner, actor = Wan(TINY).eval(), Wan(TINY).eval().requires_grad_(False)
    received = travelled(WeightsVersion.of(3, 0, learner.state_dict(), torch.float32))
    actor.load_state_dict(received.tensors, assign=True)
    received.check(actor.state_dict())
    pointers = {tensor.data_ptr() for tensor in received.tensors.values()}
    assert {tensor.data_ptr() for tensor in actor.state_dict().values()} == pointers
    assert not any(parameter.requires_grad for parameter in actor.parameters())


def take(numbers, n):
    return list(itertools.islice(numbers, n))


def test_no_number_comes_twice_and_all_rise_however_many_starts_a_run_has(tmp_path):
    starts = [take(version_numbers(str(tmp_path)), n) for n in (3, 1, 5)]
    numbers = [number for start in starts for number in start]
    assert numbers == sorted(set(numbers))
    assert starts[0] == [0, 1, 2] and starts[2][0] == 2 * 10**9


def test_a_start_that_publishes_nothing_writes_nothing(tmp_path):
    version_numbers(str(tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_run_that_counted_its_versions_one_by_one_goes_on_with_larger_numbers(tmp_path):
    """As commit 25145b3 left it: the last number in the file, the checkpoint's versions below it."""
    (tmp_path / "last_version").write_text("37")
    assert next(version_numbers(str(tmp_path), [(0, 0), (31, 30)])) > 37


def test_a_checkpoint_in_a_folder_without_the_file_keeps_its_numbers_to_itself(tmp_path):
    assert next(version_numbers(str(tmp_path), [(0, 0), (3 * 10**9, 5)])) > 3 * 10**9
