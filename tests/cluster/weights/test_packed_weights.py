"""Weights on their way from the learner to the actors' networks."""

import gc
import threading
import weakref

import pytest
import torch

from cluster.weights.packed_weights import pack, unpack
from cluster.weights.prefetch import PrefetchedWeights
from models.fingerprint import fingerprint
from models.network_config import TINY
from models.records import Weights
from models.wan.network import Wan


class Shelf:
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
def shelf():
    return Shelf()


@pytest.fixture
def prefetched(shelf):
    source = PrefetchedWeights(shelf.fetch)
    yield source
    source.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_weights_are_the_same_bytes_with_the_learners_fingerprint(dtype):
    tensors = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7).to(dtype), "c": torch.randn(()).to(dtype)}
    unpacked = unpack(pack(Weights(4, tensors)))
    assert unpacked.version == 4 and unpacked.fingerprint == fingerprint(tensors)
    for name, tensor in tensors.items():
        assert unpacked.tensors[name].dtype == dtype and torch.equal(unpacked.tensors[name], tensor)


def test_a_network_that_took_packed_weights_by_pointer_computes_the_same_and_leaves_them_alone():
    torch.manual_seed(0)
    learner, actor = Wan(TINY).eval(), Wan(TINY).eval().requires_grad_(False)
    packed = pack(Weights.of(3, learner))
    for chunk in packed.views.chunks:
        chunk.flags.writeable = False
    published = unpack(packed)
    actor.load_state_dict(published.tensors, assign=True)
    published.check(actor.state_dict())
    pointers = {tensor.data_ptr() for tensor in published.tensors.values()}
    assert {tensor.data_ptr() for tensor in actor.state_dict().values()} == pointers
    assert not any(parameter.requires_grad for parameter in actor.parameters())


def test_the_newest_version_wins_and_comes_once(shelf, prefetched):
    for version in (3, 4, 7):
        shelf.publish(version)
        shelf.wait_until_fetched(version)
    assert prefetched.newer(None).version == 7
    assert prefetched.newer(7) is None
    shelf.publish(9)
    shelf.wait_until_fetched(9)
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
    assert source.newer(None) is None, "answered although no fetch has ever returned"
    leave.set()
    source.first(20)
    assert source.newer(None).version == 1
    source.close()


def test_first_waits_for_the_first_version_and_leaves_it_for_newer(shelf, prefetched):
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        prefetched.first(0.01)
    publisher = threading.Timer(0.05, shelf.publish, [0])
    publisher.start()
    prefetched.first(20)
    assert prefetched.newer(None).version == 0
    prefetched.first(20)


def test_what_fetch_raises_is_raised_at_the_next_block(shelf, prefetched):
    shelf.publish(1)
    shelf.wait_until_fetched(1)
    shelf.fail(ConnectionError("the coordinator is gone"))
    prefetched._thread.join(20)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="the coordinator is gone"):
            prefetched.newer(None)
    with pytest.raises(ConnectionError):
        prefetched.first(20)


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


def test_close_ends_the_thread_and_gives_up_what_stood_by(shelf):
    source = PrefetchedWeights(shelf.fetch)
    shelf.publish(1)
    shelf.wait_until_fetched(1)
    source.close()
    assert not source._thread.is_alive()
    assert source.newer(None) is None


def test_closing_does_not_wait_for_a_fetch_that_hangs(caplog):
    entered, leave = threading.Event(), threading.Event()
    source = PrefetchedWeights(lambda than: entered.set() or leave.wait(60) or None)
    assert entered.wait(20)
    source.close(timeout_s=0.01)
    assert "did not end within 0.01 s" in caplog.text
    leave.set()
    source._thread.join(20)


@pytest.mark.gpu
def test_weights_stand_by_on_the_actors_gpu(shelf):
    source = PrefetchedWeights(shelf.fetch, "cuda")
    shelf.publish(5)
    source.first(60)
    weights = source.newer(None)
    assert weights.tensors["a"].device.type == "cuda"
    assert torch.equal(weights.tensors["a"].cpu(), torch.full((4,), 5.0))
    source.close()
