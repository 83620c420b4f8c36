"""Weights on their way from the learner to the actors' networks."""

import gc
import threading
import weakref

import pytest
import torch

from cluster.run_errors import Leaving
from cluster.weights.prefetched_weights import PrefetchedWeights
from models.records import Weights


class Learner:
    """What a learner has published: `fetch` waits for a version that is newer."""

    def __init__(self):
        self.there = threading.Condition()
        self.weights: Weights | None = None
        self.error: Exception | None = None
        self.asked: list[int | None] = []

    def publish(self, version):
        with self.there:
            self.weights = Weights(version, {"a": torch.full((4,), float(version))})
            self.there.notify_all()

    def fail(self, error):
        with self.there:
            self.error = error
            self.there.notify_all()

    def fetch(self, than):
        with self.there:
            self.asked.append(than)
            self.there.notify_all()
            if not self.there.wait_for(lambda: self.error or self._is_newer(than), timeout=0.2):
                return None
            if self.error:
                raise self.error
            return self.weights

    def _is_newer(self, than):
        return self.weights is not None and (than is None or self.weights.version > than)

    def wait_until_fetched(self, version):
        with self.there:
            assert self.there.wait_for(lambda: version in self.asked, timeout=20)


@pytest.fixture
def learner():
    return Learner()


@pytest.fixture
def prefetched(learner):
    source = PrefetchedWeights(learner.fetch)
    yield source
    source.close()


def test_the_newest_version_wins_and_comes_once(learner, prefetched):
    for version in (3, 4, 7):
        learner.publish(version)
        learner.wait_until_fetched(version)
    assert prefetched.newer(None).version == 7
    assert prefetched.newer(7) is None
    learner.publish(9)
    learner.wait_until_fetched(9)
    assert prefetched.newer(9) is None
    assert prefetched.newer(7).version == 9


def test_newer_answers_while_a_fetch_hangs():
    entered, leave = threading.Event(), threading.Event()

    def fetch(than):
        entered.set()
        assert leave.wait(60)
        return Weights(1, {})

    source = PrefetchedWeights(fetch)
    assert entered.wait(20)
    assert source.newer(0) is None, "answered although no fetch has ever returned"
    leave.set()
    assert source.newer(None).version == 1
    source.close()


def test_an_actor_without_weights_waits_for_the_first_version_and_leaves_when_none_comes(learner, prefetched):
    with pytest.raises(Leaving):
        prefetched.newer(None, first_timeout_s=0.01)
    publisher = threading.Timer(0.05, learner.publish, [0])
    publisher.start()
    assert prefetched.newer(None).version == 0
    assert prefetched.newer(None) is None, "it was handed out, and is waited for once"


@pytest.mark.parametrize(
    ("error", "raised"),
    [(ValueError("a mistake"), ValueError), (TimeoutError("the coordinator is gone"), Leaving)],
)
def test_what_fetch_raises_is_raised_at_the_next_block_and_a_lost_coordinator_makes_the_actor_leave(
    learner, prefetched, error, raised
):
    learner.publish(1)
    learner.wait_until_fetched(1)
    learner.fail(error)
    prefetched._thread.join(20)
    for than in (0, None):
        with pytest.raises(raised):
            prefetched.newer(than)


def test_a_process_that_must_go_leaves_at_its_next_block(learner):
    leave = threading.Event()
    source = PrefetchedWeights(learner.fetch, leave=leave)
    learner.publish(1)
    assert source.newer(None).version == 1
    leave.set()
    with pytest.raises(Leaving):
        source.newer(1)
    source.close()


def test_never_more_than_two_versions_are_alive():
    alive: list[weakref.ref] = []
    asked, go = threading.Semaphore(0), threading.Semaphore(0)

    def fetch(than):
        asked.release()
        assert go.acquire(timeout=60)
        tensor = torch.zeros(1)
        alive.append(weakref.ref(tensor))
        return Weights(len(alive), {"a": tensor})

    def let_one_arrive():
        go.release()
        assert asked.acquire(timeout=20)

    def count():
        gc.collect()
        return sum(reference() is not None for reference in alive)

    source = PrefetchedWeights(fetch)
    assert asked.acquire(timeout=20)
    let_one_arrive()
    network = source.newer(None)
    for _ in range(5):
        let_one_arrive()
        assert count() == 2, "the network's and the newest"
    network = source.newer(network.version)
    assert network.version == 6 and count() == 1
    network = None
    assert count() == 0
    go.release(1000)
    source.close()


def test_close_ends_the_thread_and_gives_up_what_stood_by(learner):
    source = PrefetchedWeights(learner.fetch)
    learner.publish(1)
    learner.wait_until_fetched(1)
    source.close()
    assert not source._thread.is_alive()
    assert source.newer(0) is None


def test_closing_does_not_wait_for_a_fetch_that_hangs(caplog):
    entered, leave = threading.Event(), threading.Event()
    source = PrefetchedWeights(lambda than: entered.set() or leave.wait(60) or None)
    assert entered.wait(20)
    source.close(timeout_s=0.01)
    assert " 0.01 s" in caplog.text
    leave.set()
    source._thread.join(20)


@pytest.mark.gpu
def test_weights_stand_by_on_the_actors_gpu(learner):
    source = PrefetchedWeights(learner.fetch, "cuda")
    learner.publish(5)
    weights = source.newer(None)
    assert weights.tensors["a"].device.type == "cuda"
    assert torch.equal(weights.tensors["a"].cpu(), torch.full((4,), 5.0))
    source.close()
