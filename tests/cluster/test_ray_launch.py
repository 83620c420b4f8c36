"""How a run on Ray ends whose learner ranks have failed."""

import torch

from cluster.ray_launch import failed_gpu

ECC = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nSearch for it")


def test_a_gpu_that_failed_ends_the_run_in_one_line_with_its_rank():
    error = failed_gpu({0: RuntimeError("NCCL: the peer is lost"), 3: ECC}, restarts=2)
    assert error.status == 1
    line = str(error)
    assert "learner rank 3:" in line and "uncorrectable ECC" in line and "cluster.restarts=2" in line
    assert "\n" not in line


def test_other_errors_of_ranks_keep_their_traceback():
    assert failed_gpu({0: RuntimeError("shapes differ")}, restarts=2) is None
