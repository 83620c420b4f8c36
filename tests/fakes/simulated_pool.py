"""A pool whose actors sleep where they would compute: what is left is what the system itself costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from cluster.bootstrap.ray_environment import settle_environment
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config

settle_environment(ClusterConfig())  # the coordinator imports Ray, which reads its environment then

from cluster.pool.coordinator import Coordinator  # noqa: E402
from cluster.pool.rollout_process import Delivery  # noqa: E402
from cluster.pool.scale_down import Place  # noqa: E402
from cluster.pool.slots import Slot  # noqa: E402
from cluster.runs.stage_spec import ActorSpec  # noqa: E402
from cluster.runs.trace import Span  # noqa: E402
from cluster.supply.dispatch import Dispatch  # noqa: E402
from cluster.supply.item_tensors import Item, take_apart  # noqa: E402
from cluster.supply.wire import Header, seal  # noqa: E402
from cluster.weights.version import WeightsVersion  # noqa: E402
from models.records import MadeBlock  # noqa: E402
from tests.fakes.zero_videos import PretendedVideos  # noqa: E402

Newer = Callable[[int, int | None, float, int], Awaitable[Any]]
"""As `Coordinator.newer`: (epoch, than, wait_s, slot) to newer weights in a tuple, or None after `wait_s` without."""
_WAIT_S = 5.0


class SimulatedPool:
    """Every slot makes a block of its videos in `block_s` seconds, and takes up newer weights between blocks.

    A block is due `block_s` after the one before was due, so what it costs to hand one over does not add up, as it
    would not on an accelerator. With `block_s` = 0 blocks come as fast as they are taken. Payloads and digests are made
    once by shape: they are the actors' work, and the actors are not what is measured.
    """

    def __init__(self, config: Config, newer: Newer, block_s: float, spread_s: float = 0.0):
        """`spread_s`: over how long the actors begin with their first rollouts, so that blocks are not due at once."""
        self.slots = list(range(config.cluster.rollout_actors))
        self.config = config
        self.newer, self.block_s, self.spread_s = newer, block_s, spread_s
        self.versions: dict[int, int] = {}
        self.asked: dict[int, asyncio.Task] = {}
        self.started: dict[int, float] = {}
        """By rollout: the event loop's time at which its actor began with it."""
        self.due: dict[tuple[int, int], float] = {}
        """By rollout and window: when its last block was due."""
        self.sealed: dict[tuple[int, ...], Header] = {}

    async def place(self, slot: int) -> Place:
        """Always there."""
        return Place("here", {}, ())

    async def begin(self, slot: int, spec: ActorSpec, epoch: int) -> None:
        """Always ready."""

    async def stream(self, slot: int, epoch: int, dispatch: Dispatch) -> AsyncIterator[Delivery]:
        """The deliveries of a rollout process: each block, and behind it the windows that it ends."""
        rollouts, loop = dispatch.rollouts, asyncio.get_running_loop()
        due = loop.time()
        if slot not in self.versions:
            await self._first_weights(epoch, slot)
            due += self.spread_s * slot / len(self.slots)
        self.started |= {rollout.id: due for rollout in rollouts}
        videos = PretendedVideos(self.config, rollouts)
        for index in videos.blocks:
            due += self.block_s
            await asyncio.sleep(due - loop.time() if self.block_s else 0)
            block, windows = videos.make(index, self.versions[slot])
            yield self._delivery(block, [Span(f"rollout {slot}", "block", time.time(), self.block_s)])
            for window in windows:
                self.due[window.rollout, window.index] = due if self.block_s else loop.time()
                yield self._delivery(window, ())
            self._pull(epoch, slot)

    async def _first_weights(self, epoch: int, slot: int) -> None:
        while (answer := await self.newer(epoch, None, _WAIT_S, slot)) is None:
            pass
        self.versions[slot] = answer[0].result().version
        self._ask(epoch, slot)

    def _pull(self, epoch: int, slot: int) -> None:
        """Take up what the question that is always open was answered with."""
        if not self.asked[slot].done():
            return
        answer = self.asked[slot].result()
        if answer is not None:
            self.versions[slot] = answer[0].result().version
        self._ask(epoch, slot)

    def _ask(self, epoch: int, slot: int) -> None:
        self.asked[slot] = asyncio.ensure_future(self.newer(epoch, self.versions[slot], _WAIT_S, slot))

    def _delivery(self, item: Item, spans: Sequence[Span]) -> Delivery:
        plain, tensors = take_apart(item)
        key = tuple(len(tensor) for tensor in tensors.values())
        if key not in self.sealed:
            header, payload = seal(item)
            self.sealed[key] = replace(header, payload=payload)
        versions = (item.version,) if isinstance(item, MadeBlock) else item.versions
        known = {name: value for name, value in plain.items() if name in Header.__dataclass_fields__}
        return Delivery(replace(self.sealed[key], **known | {"versions": versions}), spans)

    def replace(self, slot: int) -> None:
        """Nothing here is ever lost."""
        raise AssertionError(f"slot {slot} was replaced, though nothing failed")

    def grow(self, count: int) -> list[int]:
        """The size is what is compared."""
        assert not count, "the pool is as large as it was made"
        return []

    def shrink(self, slot: int) -> None:
        """The size is what is compared."""
        raise AssertionError("the pool is as large as it was made")

    async def dead(self, slots: Collection[int]) -> set[int]:
        """None."""
        return set()

    def draining(self) -> Collection[str]:
        """None."""
        return ()

    def copy_from(self, nodes: Collection[str], payloads: Sequence[Any]) -> None:
        """No node drains."""


def no_weights(version: int, update: int) -> asyncio.Future[WeightsVersion]:
    """Return a reference to a version without tensors: there is no other process to fetch it from."""
    reference = asyncio.get_running_loop().create_future()
    reference.set_result(WeightsVersion(version, {}, None, update))
    return reference


class SimulatedCoordinator(Coordinator):
    """The run's coordinator without Ray: what it would put into the object store it keeps."""

    def __init__(
        self, config: Config, block_s: float, spread_s: float = 0.0, pool: type[SimulatedPool] = SimulatedPool
    ):
        super().__init__(config.cluster, config.autoscale, config.run_dir, pool(config, self.newer, block_s, spread_s))
        self.available: dict[tuple[int, int], float] = {}
        """By rollout and window: the event loop's time from which the learner could take it."""

    async def _collect(self, slot: Slot, dispatch: Dispatch, deliveries: AsyncIterator[Delivery]) -> None:
        async def timed() -> AsyncIterator[Delivery]:
            async for delivery in deliveries:
                yield delivery  # asked for the next one, the coordinator has kept it
                header = delivery.header
                if header.kind == "Window":
                    self.available[header.rollout, header.index] = asyncio.get_running_loop().time()

        await super()._collect(slot, dispatch, timed())
