"""Object stores that are too small for a run are named before it starts: here, and on the nodes of a cluster."""

from types import SimpleNamespace

import pytest
from ray._private import ray_constants

import settings
from cluster.bootstrap import ray_session, store_room
from cluster.bootstrap.nodes import needs_of
from cluster.planning import memory
from cluster.planning.run_shape import run_shape_of
from cluster.run_errors import CannotStart

GB = 10**9


def node(name, stored, alive=True):
    return {"NodeID": name, "NodeManagerAddress": name, "Alive": alive, "Resources": {"object_store_memory": stored}}


@pytest.fixture
def ray(monkeypatch):
    """A cluster of these nodes, with the driver on the first."""

    def make(*nodes):
        context = SimpleNamespace(get_node_id=lambda: nodes[0]["NodeID"])
        fake = SimpleNamespace(nodes=lambda: list(nodes), get_runtime_context=lambda: context)
        monkeypatch.setattr(store_room, "ray", fake)

    return make


def test_the_smallest_store_of_the_driver_and_of_the_others_is_named_once(ray):
    ray(node("head", 28 * GB), node("a", 30 * GB), node("b", 2 * GB), node("c", 3 * GB), node("dead", 0, alive=False))
    (line,) = store_room.store_notes(20 * GB, 7 * GB)
    assert "(b)" in line and "2.0 GB" in line and str(7 * GB) in line
    assert ["(head)" in line for line in store_room.store_notes(45 * GB, GB)] == [True]
    assert list(store_room.store_notes(28 * GB, 2 * GB)) == []


@pytest.fixture
def free(monkeypatch):
    """A function that gives shared memory so many bytes."""

    def make(size):
        monkeypatch.setattr(store_room.os, "statvfs", lambda folder: SimpleNamespace(f_frsize=1, f_bavail=size))

    return make


def test_a_store_that_ray_would_put_on_disk_is_named_and_one_that_ray_rejects_is_refused(free):
    free(64 * 2**20)  # a container's
    assert store_room.shared_memory_note(10**7) is None
    assert "--shm-size=1.1g" in store_room.shared_memory_note(GB)
    with pytest.raises(CannotStart, match=r"/dev/shm has 0.1 GB.*--shm-size=12.1g"):
        store_room.shared_memory_note(11 * GB)
    assert store_room._ON_DISK_BYTES == ray_constants.REQUIRE_SHM_SIZE_THRESHOLD


def test_a_machine_without_shared_memory_has_none(tmp_path):
    assert "0.0 GB" in store_room.shared_memory_note(1, tmp_path / "shm")


def test_a_local_ray_says_so_before_it_starts(monkeypatch, free):
    heard = []

    def connect(needs, cpus):
        raise AssertionError("started")

    free(0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_session, "connected", connect)
    tiny, wan = (needs_of(settings.load([f"preset={name}"])) for name in ("tiny", "wan_1_3b"))
    with pytest.raises(AssertionError, match="started"), ray_session.ray_session(tiny, heard.append):
        pass
    assert ["/dev/shm" in line for line in heard] == [True]
    with pytest.raises(CannotStart), ray_session.ray_session(wan, heard.append):
        pass


def test_a_version_is_on_every_node_once_and_what_waits_on_the_driver_s_alone():
    """2.84 GB a version: eight readers of a node share it, and eight nodes have eight."""
    config = settings.load(["preset=wan_1_3b", "cluster=h100_32", "stage=dmd", "init=x"])
    version = 2 * memory.parameters(config.student.wan)
    driver, other = memory.store_sizes(config)
    assert other == int(1.25 * 2 * version) and driver == int(1.25 * (memory.buffer_size(config)[0] + 2 * version))
    assert memory.store_sizes(settings.load(["preset=wan_1_3b", "cluster.rollout_actors=8"]))[1] == other
    lines = {line.name: line.value for line in memory.shared_memory(run_shape_of(config))}
    assert (lines["object store, driver's node"], lines["object store, any other node"]) == (driver, other)


def test_trajectories_that_wait_count_where_they_are_more_than_windows():
    config = settings.load(["preset=wan_1_3b", "stage=ode"])
    lines = {line.name: line.value for line in memory.shared_memory(run_shape_of(config))}
    assert memory.store_sizes(config) == (int(1.25 * lines["trajectories that wait"]), 0)
    assert lines["trajectories that wait"] > lines["the buffer"]
