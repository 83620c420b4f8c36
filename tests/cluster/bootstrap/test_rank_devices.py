"""The learner's process group on GPUs: each rank its own, and a watchdog that outlives every wait for windows."""

import pytest

import settings
from cluster import ray_launch
from cluster.bootstrap import learner_group
from cluster.bootstrap.learner_group import NodeAddressConfig, call_in_rank
from cluster.planning import placement


def test_ranks_know_their_place_on_the_node_before_they_join(monkeypatch):
    """Torch binds a rank to the GPU of LOCAL_RANK when the group forms; without it two ranks would take GPU 0."""
    calls = []

    class Workers:
        def __len__(self):
            return 2

        def execute(self, function, module, name):
            calls.append((function, name))

        def execute_single(self, rank, function, module, name):
            calls.append((function, name))
            return "10.0.0.7", 4711, 3

        def execute_single_async(self, rank, function, module, name, *arguments):
            calls.append((function, name, rank, arguments))

    monkeypatch.setattr(learner_group.ray, "get", lambda joined, timeout: calls.append(timeout))
    config = NodeAddressConfig(backend="nccl", timeout_s=77)
    config.backend_cls().on_start(Workers(), config)
    places, listen, first, second, waited = calls
    assert places == (call_in_rank, "_set_torch_distributed_env_vars") and listen == (call_in_rank, "listen")
    assert [one[:3] for one in (first, second)] == [(call_in_rank, "join_group", 0), (call_in_rank, "join_group", 1)]
    assert first[3][:3] == (0, 3, "10.0.0.7") and second[3][:2] == (1, None) and waited > 77


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (1, "nccl")])
def test_the_watchdog_is_later_than_the_longest_wait_of_a_rank_for_windows(monkeypatch, gpus, backend):
    """A rank that waits ends with the name of what it waited for; NCCL's watchdog would end all ranks by abort."""
    made = {}

    class Trainer:
        def __init__(self, loop, **parts):
            made.update(parts)

        def fit(self):
            raise SystemExit  # as Train does for Ctrl-C

    monkeypatch.setattr(ray_launch, "LearnerTrainer", Trainer)
    config = settings.load(["preset=wan_1_3b", "cluster.timeout_s=120", f"cluster.rank_gpus={gpus}"])
    with pytest.raises(KeyboardInterrupt):
        ray_launch._fit({}, config.cluster, placement.learner(config.cluster), "/tmp/run")
    assert made["backend_config"].timeout_s > config.cluster.timeout_s
    assert (made["backend_config"].backend, made["scaling_config"].use_gpu) == (backend, bool(gpus))
