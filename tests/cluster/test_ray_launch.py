"""How a run on Ray ends whose learner ranks have failed."""

from types import SimpleNamespace

import pytest
import torch

from cluster import ray_launch
from cluster.ray_launch import failed_gpu
from cluster.run_errors import RunFailed
from learner.parallel import collectives
from tests.fakes.small_runs import small

ECC = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nSearch for it")


def test_a_gpu_that_failed_ends_the_run_in_one_line_with_its_rank():
    error = failed_gpu({0: RuntimeError("NCCL: the peer is lost"), 3: ECC}, restarts=2)
    assert error.status == 1
    line = str(error)
    assert "learner rank 3:" in line and "uncorrectable ECC" in line and "cluster.restarts=2" in line
    assert "\n" not in line


def test_other_errors_of_ranks_keep_their_traceback():
    assert failed_gpu({0: RuntimeError("shapes differ")}, restarts=2) is None


@pytest.mark.parametrize("size", [1, 2])
def test_a_rank_out_of_memory_stops_the_run_once_in_one_line(monkeypatch, size):
    stopped = []
    coordinator = SimpleNamespace(
        stop_reason=SimpleNamespace(remote=lambda: None), stopped=SimpleNamespace(remote=stopped.append)
    )
    monkeypatch.setattr(ray_launch.ray, "get", lambda answer, timeout: answer)
    for name in ("forward_warnings", "RayCluster", "check_own_gpu"):
        monkeypatch.setattr(ray_launch, name, lambda *_: None)
    for name, value in (("rank", 3), ("size", size), ("split_sequences", None)):
        monkeypatch.setattr(collectives, name, lambda *_, value=value: value)

    def loop(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total\nof")

    task = {"loop": loop, "config": small(), "coordinator": coordinator}
    if size == 1:
        ray_launch._learn(task)
    else:  # the others may wait for this rank: Train ends them, and the next group finds the reason
        with pytest.raises(torch.OutOfMemoryError):
            ray_launch._learn(task)
    (reason,) = stopped
    assert type(reason) is RunFailed and "learner rank 3" in str(reason) and "\n" not in str(reason)
