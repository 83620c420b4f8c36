"""A version on its way from the learner to the pool belongs to the coordinator, whatever becomes of the learner."""

import time
from functools import partial

import pytest
import torch

from cluster.weights.version import WeightsVersion
from tests.fakes.weight_coordinator import WeightCoordinator


@pytest.fixture(scope="module")
def shared_roles(local_ray):
    """A coordinator and a learner in processes of their own, which take seconds to start."""
    coordinator, learner = local_ray.remote(num_cpus=0)(WeightCoordinator).remote(), started_learner(local_ray)
    yield coordinator, learner
    local_ray.kill(coordinator)
    local_ray.kill(learner)


@pytest.fixture
def coordinator(local_ray, shared_roles):
    local_ray.get(shared_roles[0].begin_again.remote(), timeout=60)
    return shared_roles[0]


@pytest.fixture
def learner(shared_roles):
    return shared_roles[1]


@pytest.fixture
def mortal(local_ray):
    """A learner that the test may kill."""
    learner = started_learner(local_ray)
    yield learner
    local_ray.kill(learner)


def hand_over(coordinator, version, tensors):
    from cluster.weights.object_store import Handover

    offer = partial(coordinator.publish.remote, version, 0)
    return Handover(offer, version, partial(WeightsVersion.of, version, 0, tensors, torch.float32), 60)


def started_learner(ray):
    @ray.remote(num_cpus=0, max_concurrency=2)
    class Learner:
        def publish_and_overwrite(self, coordinator, version):
            tensors = {"a": torch.full((1000, 1000), float(version))}
            hand_over(coordinator, version, tensors).wait()
            tensors["a"].zero_()

        def offer_and_ask(self, coordinator, version):
            tensors = {"a": torch.full((1000, 1000), float(version))}
            handover = hand_over(coordinator, version, tensors)
            known = ray.get(coordinator.newest.remote(), timeout=60)
            handover.wait()
            return known

    return Learner.remote()


def kill(ray, process):
    ray.kill(process)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            ray.get(process.__ray_ready__.remote(), timeout=60)
        except ray.exceptions.RayActorError:
            return
    pytest.fail("the process does not die")


def fetch(coordinator, than=None):
    from cluster.weights.object_store import ObjectStoreWeights

    weights = ObjectStoreWeights(coordinator, 0, 0).fetch(than)
    weights.check(weights.tensors)
    return weights.version, weights.tensors["a"].unique().tolist()


@pytest.mark.ray
def test_a_version_outlives_the_learner_that_may_write_to_its_tensors_at_once(local_ray, coordinator, mortal):
    local_ray.get(mortal.publish_and_overwrite.remote(coordinator, 7), timeout=60)
    kill(local_ray, mortal)
    assert fetch(coordinator) == (7, [7.0])


@pytest.mark.ray
def test_a_call_behind_an_offer_finds_its_version_known(local_ray, coordinator, learner):
    asked = [local_ray.get(learner.offer_and_ask.remote(coordinator, version), timeout=60) for version in range(30)]
    assert asked == list(range(30))


@pytest.mark.ray
def test_versions_only_grow(local_ray, coordinator, learner):
    for version in (1, 3):
        local_ray.get(learner.publish_and_overwrite.remote(coordinator, version), timeout=60)
        assert fetch(coordinator) == (version, [version])
    for version in (2, 3):
        with pytest.raises(ValueError, match=rf"\b{version}\b.*\b3\b"):
            local_ray.get(learner.publish_and_overwrite.remote(coordinator, version), timeout=60)
    assert fetch(coordinator) == (3, [3.0])


@pytest.mark.ray
def test_who_asks_for_newer_weights_is_answered_when_they_come_or_when_the_wait_is_over(
    local_ray, coordinator, learner
):
    assert local_ray.get(coordinator.newer.remote(0, None, 0.01, 0), timeout=60) is None
    local_ray.get(learner.publish_and_overwrite.remote(coordinator, 0), timeout=60)
    assert local_ray.get(coordinator.newer.remote(0, 0, 0.01, 0), timeout=60) is None
    waiting = [coordinator.newer.remote(0, 0, 50.0, 0) for _ in range(3)]
    started = time.monotonic()
    local_ray.get(learner.publish_and_overwrite.remote(coordinator, 1), timeout=60)
    assert all(local_ray.get(waiting, timeout=60))
    assert time.monotonic() - started < 40


@pytest.mark.ray
def test_a_driver_can_publish_too(coordinator):
    for version in (4, 5):
        tensors = {"a": torch.full((3,), float(version))}
        hand_over(coordinator, version, tensors).wait()
    assert fetch(coordinator) == (5, [5.0])


@pytest.mark.ray
def test_an_offer_that_was_withdrawn_or_whose_learner_died_changes_nothing(local_ray, coordinator, mortal):
    local_ray.get(mortal.publish_and_overwrite.remote(coordinator, 1), timeout=60)
    with pytest.raises(KeyError):
        local_ray.get(coordinator.publish.remote(2, 0, mortal), timeout=60)
    kill(local_ray, mortal)
    with pytest.raises(local_ray.exceptions.RayActorError):
        local_ray.get(coordinator.publish.remote(2, 0, mortal), timeout=60)
    assert fetch(coordinator) == (1, [1.0])


@pytest.mark.ray
def test_a_hand_over_that_ended_in_time_is_good_however_late_it_is_waited_for(coordinator):
    handover = hand_over(coordinator, 6, {"a": torch.zeros(3)})
    handover.deadline = 0.0
    handover.wait()
