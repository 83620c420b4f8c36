"""Measure the time of a version from the learner into the actors' networks, in copies of memory.

python -m benchmarks.weight_sync   500 MB of bf16: one process publishes, a coordinator owns the bytes, two actors load
them by pointer. One JSON line for each of: reaching both actors, with and without comparing fingerprints there, and
from tensors that lie apart in the learner's memory; the whole hand-over; what publishing adds to an update of the
learner, whose computation is a sleep and which waits for a hand-over before the next one.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

from cluster.bootstrap.ray_environment import settle_environment
from cluster.config.cluster_config import ClusterConfig

settle_environment(ClusterConfig())

import ray  # noqa: E402 (reads its environment when imported)
import torch  # noqa: E402

from benchmarks.line import print_line  # noqa: E402
from cluster.weights.object_store import Handover, ObjectStoreWeights, WeightStore  # noqa: E402
from cluster.weights.prefetched_weights import PrefetchedWeights  # noqa: E402
from cluster.weights.version import WeightsVersion  # noqa: E402
from learner.trained_network import FlatCopy  # noqa: E402

TENSORS, TENSOR_ELEMENTS = 100, 2_500_000
BYTES = 2 * TENSORS * TENSOR_ELEMENTS
WARM_UP, REPEATS = 12, 15
PAUSE_S, UPDATE_S, BLOCK_S = 0.5, 0.3, 0.0005
TIMEOUT_S = 120.0
STORE_BYTES = 3 * 2**30


@ray.remote(num_cpus=0)
class Coordinator:
    """Serves weights as the run's coordinator does, and nothing else."""

    def __init__(self):
        self.store = WeightStore()

    async def publish(self, version: int, update: int, source: ray.actor.ActorHandle) -> None:
        await self.store.collect(version, source)

    async def newer(self, epoch: int, than: int | None, wait_s: float, slot: int) -> tuple[ray.ObjectRef] | None:
        return await self.store.newer(than, wait_s)


def parameters() -> dict[str, torch.Tensor]:
    return {f"layer.{i}": torch.randn(TENSOR_ELEMENTS).to(torch.bfloat16) for i in range(TENSORS)}


class Network(torch.nn.Module):
    """Holds parameters of the published size."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.ParameterList(torch.nn.Parameter(p, requires_grad=False) for p in parameters().values())


@ray.remote(num_cpus=0)
class Actor:
    """Polls for newer weights at every block, as a rollout does; a block is a short sleep."""

    def __init__(self, coordinator: ray.actor.ActorHandle):
        torch.set_num_threads(1)
        self.network, self.version = Network(), None
        self.source = PrefetchedWeights(ObjectStoreWeights(coordinator, 0, 0).fetch)

    def follow(self, last: int, check: bool) -> dict[int, float]:
        """Return by version when it was in the network, once version `last` is."""
        loaded = {}
        while self.version is None or self.version < last:
            weights = self.source.newer(-1 if self.version is None else self.version)
            if weights is None:
                time.sleep(BLOCK_S)
                continue
            self.network.load_state_dict(weights.tensors, assign=True)
            if check:
                weights.check(self.network.state_dict())
            self.version = weights.version
            loaded[self.version] = time.monotonic()
        return loaded


@ray.remote(num_cpus=0, max_concurrency=2)
class Learner:
    """Publishes from one thread while another answers calls, as a process of Ray Train does."""

    def __init__(self, coordinator: ray.actor.ActorHandle):
        torch.set_num_threads(1)
        self.coordinator = coordinator
        self.apart = parameters()
        self.together = FlatCopy(self.apart, torch.bfloat16).of(self.apart)

    def memory_copy_s(self) -> list[float]:
        """Time one copy of all bytes into memory that was written before."""
        source = torch.ones(BYTES, dtype=torch.uint8)
        target = source.clone()
        return [_timed(lambda: target.copy_(source)) for _ in range(REPEATS)]

    def publish(self, versions: range, apart: bool) -> dict[int, tuple[float, float]]:
        """Return by version when its publish began and ended."""
        times = {}
        for version in versions:
            times[version] = self._publish(version, self.apart if apart else self.together)
            time.sleep(PAUSE_S)
        return times

    def train(self, versions: range) -> list[tuple[float, float]]:
        """Return per update, with a simulated computation of UPDATE_S: (seconds in all, seconds in publish)."""
        updates, handover = [], None
        for version in versions:
            started = time.monotonic()
            time.sleep(UPDATE_S)
            begun = time.monotonic()
            if handover is not None:
                handover.wait()
            handover = self._offer(version, self.together)
            updates.append((time.monotonic() - started, time.monotonic() - begun))
        handover.wait()
        return updates

    def idle(self) -> list[float]:
        """Return the seconds per update without publishing."""
        return [_timed(lambda: time.sleep(UPDATE_S)) for _ in range(REPEATS)]

    def _publish(self, version: int, tensors: dict[str, torch.Tensor]) -> tuple[float, float]:
        begun = time.monotonic()
        self._offer(version, tensors).wait()
        return begun, time.monotonic()

    def _offer(self, version: int, tensors: dict[str, torch.Tensor]) -> Handover:
        tensors[f"layer.{version % TENSORS}"] += 1
        make = partial(WeightsVersion.of, version, 0, tensors, torch.bfloat16)
        return Handover(partial(self.coordinator.publish.remote, version, 0), version, make, TIMEOUT_S)


def _timed(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def main() -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=STORE_BYTES, log_to_driver=False)
    try:
        measure()
    finally:
        ray.shutdown()


def measure() -> None:
    coordinator = Coordinator.remote()
    learner = Learner.remote(coordinator)
    actors = [Actor.remote(coordinator) for _ in range(2)]
    ray.get([actor.__ray_ready__.remote() for actor in actors])
    first = 0

    def run(count: int, check: bool = True, apart: bool = False) -> tuple[list[float], list[float]]:
        """Return the seconds of each publish, and those from its beginning until both actors have the version."""
        nonlocal first
        versions = range(first, first + count)
        first += count
        followers = [actor.follow.remote(versions[-1], check) for actor in actors]
        published = ray.get(learner.publish.remote(versions, apart))
        loaded = ray.get(followers)
        reached = [max(times[v] for times in loaded) - published[v][0] for v in versions]
        return [ended - begun for begun, ended in published.values()], reached

    config = {"bytes": BYTES, "tensors": TENSORS, "actors": 2, "store_bytes": STORE_BYTES, "warm_up": WARM_UP}

    def line(name: str, values: list[float], limit: float | None) -> None:
        print_line(f"weight_sync.{name}", values, "s", "cpu, one thread per process", config, limit)

    run(WARM_UP)
    copies = ray.get(learner.memory_copy_s.remote())
    copy_s = statistics.median(copies)
    published, reached = run(REPEATS)
    line("memory_copy", copies, None)
    line("reach", reached, copy_s)
    line("publish", published, copy_s)
    line("reach_unchecked", run(REPEATS, check=False)[1], copy_s)
    line("reach_apart", run(REPEATS, apart=True)[1], copy_s)
    idle_s = statistics.median(ray.get(learner.idle.remote()))
    versions = range(first, first + REPEATS)
    followers = [actor.follow.remote(versions[-1], True) for actor in actors]
    updates = ray.get(learner.train.remote(versions))
    ray.get(followers)
    line("added_to_update", [whole - idle_s for whole, _ in updates], statistics.median(call for _, call in updates))


if __name__ == "__main__":
    main()
