"""Weights over a process group: the same bytes, and no dead process hangs a living one."""

import os
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from cluster.weights.collective import _join
from cluster.weights.version import WeightsVersion
from models.fingerprint import fingerprint
from tests.fakes.weight_coordinator import WeightCoordinator

TIMEOUT_S = 8.0
"""Where a process dies: what the others may take to notice."""
PATIENT_S = 100.0
"""Where none dies: how long a busy machine may take to let two processes meet."""


def weights(version):
    torch.manual_seed(version)
    tensors = {
        "a": torch.randn(300, 200).bfloat16(),
        "scalar": torch.randn(()),
        "empty": torch.empty(0, 3),
        "strided": torch.randn(5, 7).t(),
    }
    return WeightsVersion(version, tensors, fingerprint(tensors))


@pytest.fixture
def timeout_s():
    return TIMEOUT_S


@pytest.fixture
def pool(local_ray, timeout_s):
    """A coordinator, a relay and two actors, which wait `timeout_s` for each other."""
    ray = local_ray

    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, relay, member, coordinator):
            from cluster.weights.collective import CollectiveWeights
            from cluster.weights.object_store import ObjectStoreWeights

            self.weights = CollectiveWeights(relay, member, "cpu", timeout_s, ObjectStoreWeights(coordinator, 0, 0))

        def receive(self, than):
            while (received := self.weights.fetch(than)) is None:
                pass  # as PrefetchedWeights does
            received.check(received.tensors)
            return received

        def failed(self):
            return self.weights.failed

        def meet(self, member):
            self.weights.slot = member
            self.weights.connect()

        def receive_what_is_never_sent(self):
            from cluster.weights.collective import _finish

            _finish(self.weights.group.recv, torch.empty(100, dtype=torch.uint8), 0, time.monotonic() + timeout_s)

    from cluster.weights.collective import WeightRelay

    coordinator = ray.remote(num_cpus=0)(WeightCoordinator).remote()
    relay = WeightRelay.remote(coordinator, 0, "cpu", timeout_s)

    def new_actor(member):
        return Actor.remote(relay, member, coordinator)

    actors = [new_actor(0), new_actor(1)]
    yield coordinator, relay, actors, new_actor
    for process in (*actors, relay, coordinator):
        ray.kill(process)


def publish(coordinator, version):
    from cluster.weights import object_store

    offer = partial(coordinator.publish.remote, version, 0)
    object_store.Handover(offer, version, lambda: weights(version), 60).wait()


def assert_equal(received, version):
    assert received.version == version
    expected = weights(version).tensors
    assert list(received.tensors) == list(expected)
    for name, tensor in expected.items():
        assert received.tensors[name].dtype == tensor.dtype and torch.equal(received.tensors[name], tensor)


def failed(ray, actor):
    """Whether the actor has fallen back on the store."""
    return ray.get(actor.failed.remote(), timeout=60)


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.parametrize("timeout_s", [PATIENT_S], ids=["patient"])
def test_both_actors_receive_every_version_bit_equal_without_the_store(local_ray, pool):
    coordinator, _, actors, _ = pool
    than = None
    for version in (0, 3, 4):
        publish(coordinator, version)
        received = local_ray.get([actor.receive.remote(than) for actor in actors], timeout=2 * PATIENT_S)
        for packed in received:
            assert_equal(packed, version)
        than = version
    assert [failed(local_ray, actor) for actor in actors] == [False, False]


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.parametrize("timeout_s", [PATIENT_S], ids=["patient"])
def test_an_actor_that_waits_receives_what_is_published_meanwhile(local_ray, pool):
    coordinator, _, actors, _ = pool
    publish(coordinator, 0)
    assert_equal(local_ray.get(actors[0].receive.remote(None), timeout=60), 0)
    waiting = actors[0].receive.remote(0)
    publish(coordinator, 1)
    assert_equal(local_ray.get(waiting, timeout=60), 1)


@pytest.mark.proof
@pytest.mark.ray
def test_a_killed_actor_hangs_nobody_and_another_takes_its_place(local_ray, pool):
    coordinator, _, actors, new_actor = pool
    publish(coordinator, 0)
    local_ray.get([actor.receive.remote(None) for actor in actors], timeout=60)
    local_ray.kill(actors[0])
    publish(coordinator, 1)
    assert_equal(local_ray.get(actors[1].receive.remote(0), timeout=60), 1)
    actors[0] = new_actor(0)
    assert_equal(local_ray.get(actors[0].receive.remote(None), timeout=60), 1)
    assert [failed(local_ray, actor) for actor in actors] == [False, False]


@pytest.mark.ray
@pytest.mark.proof
def test_when_the_relay_is_killed_actors_go_on_through_the_store_at_once(local_ray, pool):
    coordinator, relay, actors, _ = pool
    publish(coordinator, 0)
    local_ray.get([actor.receive.remote(None) for actor in actors], timeout=60)
    waiting = [actor.receive.remote(0) for actor in actors]
    local_ray.kill(relay)
    publish(coordinator, 1)
    for packed in local_ray.get(waiting, timeout=60):
        assert_equal(packed, 1)
    assert all(failed(local_ray, actor) for actor in actors)


@pytest.mark.proof
@pytest.mark.ray
def test_a_send_to_a_member_that_never_receives_ends_with_the_timeout(local_ray, pool):
    coordinator, relay, actors, _ = pool
    publish(coordinator, 0)
    local_ray.get(actors[0].meet.remote(7), timeout=60)
    local_ray.get(relay.announce.remote(7, None, 5.0), timeout=60)
    started = time.monotonic()
    sending = relay.send.remote(7)
    assert_equal(local_ray.get(actors[1].receive.remote(None), timeout=60), 0)
    with pytest.raises(RuntimeError):
        local_ray.get(sending, timeout=60)
    assert time.monotonic() - started < TIMEOUT_S + 10


@pytest.mark.proof
@pytest.mark.ray
def test_a_send_to_a_member_that_is_killed_meanwhile_ends_with_an_error(local_ray, pool):
    coordinator, relay, actors, _ = pool
    publish(coordinator, 0)
    local_ray.get(actors[0].meet.remote(7), timeout=60)
    local_ray.get(relay.announce.remote(7, None, 5.0), timeout=60)
    sending = relay.send.remote(7)
    local_ray.kill(actors[0])
    with pytest.raises(RuntimeError):
        local_ray.get(sending, timeout=60)


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.parametrize("killed", [True, False])
def test_a_receiver_whose_relay_is_killed_or_silent_is_told_in_time(local_ray, pool, killed):
    _, relay, actors, _ = pool
    local_ray.get(actors[0].meet.remote(0), timeout=60)
    receiving = actors[0].receive_what_is_never_sent.remote()
    if killed:
        local_ray.kill(relay)
    with pytest.raises(RuntimeError):
        local_ray.get(receiving, timeout=60)


def test_a_group_of_nccl_is_formed_where_a_lost_peer_ends_no_process(monkeypatch):
    """NCCL needs a GPU: a stand-in notes the environment that torch would read when the group is made."""
    read = {}

    class Group:
        Options = SimpleNamespace

        def __init__(self, *_):
            read.update(os.environ)

    monkeypatch.setattr(os, "environ", {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"})  # as Ray Train sets it
    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", Group)
    _join(torch.distributed.HashStore(), "pair", 0, torch.device("cuda"), "127.0.0.1", 1.0)
    assert read["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "2"
    assert read["TORCH_NCCL_DUMP_ON_TIMEOUT"] == read["TORCH_NCCL_ENABLE_MONITORING"] == "0"
