"""Where the learner ranks' process group can be reached."""

import json
import os
import socket

import psutil
import pytest
import torch
from torch.distributed import HashStore

from cluster.bootstrap.process_group import interface_of, ranks_on_gpu, settle_nccl


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_ranks_reduce_together_and_everything_listens_on_the_loopback_only(local_ray, tmp_path):
    from ray.train import RunConfig, ScalingConfig

    from cluster.bootstrap.learner_group import LearnerTrainer, NodeAddressConfig

    variables = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")

    def learn(task):
        from torch import distributed

        total = torch.tensor([distributed.get_rank() + 1.0])
        distributed.all_reduce(total)
        if distributed.get_rank() == 0:
            driver = psutil.Process(task["driver"])
            tree = {driver.pid} | {child.pid for child in driver.children(recursive=True)}
            listening = [c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in tree]
            seen = {
                "addresses": sorted({c.laddr.ip for c in listening}),
                "rank_ports": [c.laddr.port for c in listening if c.pid == os.getpid()],
                "environment": {name: os.environ[name] for name in variables},
                "timeout_s": distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout.seconds,
                "total": total.item(),
            }
            with open(task["seen"], "w") as file:
                json.dump(seen, file)
        distributed.barrier()  # rank 1 is there while rank 0 looks

    LearnerTrainer(
        learn,
        train_loop_config={"driver": os.getpid(), "seen": str(tmp_path / "seen.json")},
        backend_config=NodeAddressConfig(backend="gloo", timeout_s=77),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="group", storage_path=str(tmp_path)),
    ).fit()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["total"] == 3.0
    assert seen["timeout_s"] == 77
    assert {address.removeprefix("::ffff:") for address in seen["addresses"]} == {"127.0.0.1"}
    host, port, *place = seen["environment"].values()
    assert host == "127.0.0.1"
    assert int(port) in seen["rank_ports"], "the store is not where the ranks were told"
    assert place == ["0", "2", "0"]


def test_an_address_belongs_to_the_interface_that_holds_it_or_to_none():
    names = {name for _, name in socket.if_nameindex()}
    assert interface_of("127.0.0.1") in names
    assert interface_of("203.0.113.7") is None  # reserved for documents


def test_ranks_on_one_gpu_learn_of_each_other_before_their_first_collective():
    store, gpus = HashStore(), ["a", "b", "a", "c"]
    for rank, gpu in enumerate(gpus):
        store.set(f"longtake/gpu/{rank}", gpu)
    assert [ranks_on_gpu(gpu, store, rank, 4) for rank, gpu in enumerate(gpus)] == [[0, 2], [1], [0, 2], [3]]


def test_a_rank_outlives_a_lost_nccl_peer_unless_the_user_chose_otherwise():
    settled = {}
    for given in ({}, {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}, {"TORCH_NCCL_BLOCKING_WAIT": "1"}):
        settle_nccl(environment := dict(given))
        settled[str(given)] = environment
    unset, chosen, blocking = settled.values()
    assert unset == {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "2"}
    assert chosen == {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"} and blocking == {"TORCH_NCCL_BLOCKING_WAIT": "1"}
