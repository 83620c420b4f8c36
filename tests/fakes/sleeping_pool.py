"""A rollout pool on Ray whose processes sleep where they would compute: all else is the run's own."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from cluster.config.run_config import Config
from cluster.pool.coordinator import Coordinator
from cluster.pool.ray_pool import RayPool
from cluster.pool.rollout_process import Delivery, open_blocks, place_of_process
from cluster.pool.scale_down import Place
from cluster.run_errors import Leaving, StageEnded
from cluster.runs.stage_spec import ActorSpec
from cluster.runs.trace import Span
from cluster.supply.tensor_bytes import ByteViews
from cluster.supply.wire import Header, seal
from cluster.weights.object_store import ObjectStoreWeights
from cluster.weights.prefetched_weights import PrefetchedWeights
from models.records import MadeBlock, Rollout, Window
from tests.fakes.zero_videos import PretendedVideos


class SleepingActor:
    """Has RolloutActor's `windows`. A block is due `block_s` after the one before, so handing it over costs nothing."""

    def __init__(self, spec: ActorSpec, weights: PrefetchedWeights, block_s: float):
        self.spec, self.weights, self.block_s = spec, weights, block_s
        self.version: int | None = None

    def windows(self, rollouts: Sequence[Rollout], made: Sequence[MadeBlock]) -> Iterator[Window | MadeBlock]:
        """Every block behind those `made` when it is due, and behind it the windows that it ends."""
        videos, due = PretendedVideos(self.spec, rollouts, made), time.perf_counter()
        self._pull()
        for index in videos.blocks:
            due += self.block_s
            time.sleep(max(0.0, due - time.perf_counter()))
            block, windows = videos.make(index, self.version)
            yield block
            yield from windows
            self._pull()

    def _pull(self) -> None:
        newer = self.weights.newer(self.version)
        self.version = self.version if newer is None else newer.version


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class SleepingProcess:
    """Stands where a RolloutProcess would: fetches its weights as one does, may be killed, and leaves when it must."""

    def __init__(self, coordinator: ray.actor.ActorHandle, slot: int, block_s: float):
        self.coordinator, self.slot, self.block_s = coordinator, slot, block_s
        self.weights: PrefetchedWeights | None = None

    def place(self) -> Place:
        """As RolloutProcess.place."""
        return place_of_process()

    def begin(self, spec: ActorSpec, epoch: int, relay: None) -> None:
        """As RolloutProcess.begin."""
        if self.weights is not None:
            self.weights.close()
        self.weights = PrefetchedWeights(ObjectStoreWeights(self.coordinator, epoch, self.slot).fetch)
        self.actor = SleepingActor(spec, self.weights, self.block_s)

    def windows(
        self, rollouts: Sequence[Rollout], made: Sequence[Header], first: Sequence[Header]
    ) -> Iterator[Delivery | ByteViews]:
        """As RolloutProcess.windows."""
        try:
            for item in self.actor.windows(rollouts, open_blocks(made)):
                spans = [Span(f"rollout {self.slot}", "block", time.time(), self.block_s)]
                header, payload = seal(item)
                yield Delivery(header, spans if isinstance(item, MadeBlock) else [])
                yield payload
        except (Leaving, StageEnded):
            return

    def ready(self) -> None:
        """Answers when the process is there."""


class SleepingPool(RayPool):
    """The run's pool of sleeping processes, each with these `options` of Ray."""

    def __init__(self, config: Config, coordinator: ray.actor.ActorHandle, block_s: float, options: Mapping[str, Any]):
        self.block_s, self.options = block_s, options
        super().__init__(config.cluster, coordinator)

    def _new(self, slot: int) -> ray.actor.ActorHandle:
        return SleepingProcess.options(**self.options).remote(self.coordinator, slot, self.block_s)


class SleepingCoordinator(Coordinator):
    """The run's coordinator over a sleeping pool."""

    def __init__(self, config: Config, block_s: float, options: Mapping[str, Any]):
        super().__init__(
            config.cluster,
            config.autoscale,
            config.run_dir,
            SleepingPool(config, ray.get_runtime_context().current_actor, block_s, options),
        )

    async def ready(self) -> None:
        """Answers when every process is there: how long they take to start is not what is measured."""
        for actor in self.pool.actors.values():
            await actor.ready.remote()


def start_sleeping(config: Config, block_s: float) -> Any:
    """A coordinator with its processes, all of them there. Raises GetTimeoutError."""
    coordinator = ray.remote(SleepingCoordinator).options(num_cpus=0, max_concurrency=1000).remote(config, block_s, {})
    ray.get(coordinator.ready.remote(), timeout=config.cluster.start_timeout_s)
    return coordinator
