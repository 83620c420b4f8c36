"""Run an actor of actors/ in a Ray process: stream its payloads, and open them in any process."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError

from actors.drift_tracker import DriftMeter
from cluster.bootstrap.ray_environment import settle_allocator
from cluster.config.cluster_config import ClusterConfig
from cluster.planning.memory_check import check_actor
from cluster.planning.run_shape import RunShape
from cluster.pool.driver_messages import forward_warnings
from cluster.pool.scale_down import Place
from cluster.run_errors import Leaving, StageEnded
from cluster.runs.factory import make_actor
from cluster.runs.stage_spec import ActorSpec
from cluster.runs.trace import Span, Tracer, clock_offset
from cluster.supply.item_tensors import Item
from cluster.supply.tensor_bytes import ByteViews
from cluster.supply.wire import LOST, BadWindow, Header, open_item, seal
from cluster.weights.collective import CollectiveWeights
from cluster.weights.object_store import ObjectStoreWeights
from cluster.weights.prefetched_weights import PrefetchedWeights
from models.records import MadeBlock, Progress, Rollout

_CALL_TIMEOUT_S = _FETCH_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 5.0
"""Seconds for each payload after a failed fetch of all: a payload that exists arrives at once."""


@dataclass(frozen=True)
class Delivery:
    """Holds a header from a rollout process; its payload, if any, is the stream's next item."""

    header: Header
    spans: Sequence[Span]
    """The work of the process since its last delivery."""


def fetch(headers: Sequence[Header]) -> list[Item | BadWindow]:
    """Open the items of `headers`; an unusable one becomes a BadWindow.

    A payload whose node or owner has died is `lost`. Calls Ray's blocking get: not for an event loop.
    """
    payloads = []
    with suppress(RayError, GetTimeoutError):  # then each is fetched by itself
        payloads = ray.get([header.payload for header in headers], timeout=_FETCH_TIMEOUT_S)
    items: list[Item | BadWindow] = []
    for i, header in enumerate(headers):
        try:
            payload = payloads[i] if payloads else ray.get(header.payload, timeout=_PROBE_TIMEOUT_S)
            items.append(open_item(header, payload))
        except BadWindow as bad:
            items.append(bad)
        except (RayError, GetTimeoutError) as error:
            items.append(BadWindow(LOST, f"{header.name}: its tensors are lost ({type(error).__name__})"))
    return items


def open_blocks(headers: Sequence[Header]) -> list[MadeBlock]:
    """Open all of these blocks. Raises the BadWindow of one that cannot be used."""
    blocks = fetch(headers)
    for block in blocks:
        if isinstance(block, BadWindow):
            raise block
    return blocks


def place_of_process() -> Place:
    """Return the node and GPUs of this process."""
    context = ray.get_runtime_context()
    node, gpus = context.get_node_id(), context.get_accelerator_ids()["GPU"]
    return Place(node, context.get_node_labels(), tuple(f"{node}/{gpu}" for gpu in gpus))


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class RolloutProcess:
    """Rolls out videos in a process of its own. It may die at any time; the coordinator requests its rollouts again."""

    def __init__(
        self, coordinator: ray.actor.ActorHandle, slot: int, cluster: ClusterConfig, work: RunShape | None = None
    ):
        torch.set_num_threads(cluster.threads)
        settle_allocator()
        forward_warnings(coordinator, "cluster")
        self.coordinator, self.slot, self.work = coordinator, slot, work
        self.device = "cuda" if cluster.actor_gpus else "cpu"
        self.leaving = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self.leaving.set())
        self.weights: PrefetchedWeights | None = None

    def place(self) -> Place:
        """Return the node and GPUs of this process, without loading anything."""
        return place_of_process()

    def begin(self, spec: ActorSpec, epoch: int, relay: ray.actor.ActorHandle | None) -> None:
        """Build the actor of a stage. Its weights come from `relay` if given, else through the store.

        Raises ConfigError, before weights are read, where its GPU cannot hold the processes that share it.
        """
        if self.device == "cuda" and self.work is not None:
            check_actor(self.work, torch.cuda.get_device_properties(0).total_memory)
        if self.weights is not None:
            self.weights.close()
        offset = clock_offset(lambda: ray.get(self.coordinator.clock.remote(), timeout=_CALL_TIMEOUT_S))
        self.tracer = Tracer(f"rollout {self.slot} (pid {os.getpid()})", offset)
        source = ObjectStoreWeights(self.coordinator, epoch, self.slot)
        if relay is not None:
            source = CollectiveWeights(relay, self.slot, self.device, _CALL_TIMEOUT_S, fallback=source)
        self.weights = PrefetchedWeights(source.fetch, self.device, self.leaving)
        self.spec, self.actor = spec, make_actor(spec, self.weights, self.device)

    def windows(
        self, rollouts: Sequence[Rollout], made: Sequence[Header], first: Sequence[Header]
    ) -> Iterator[Delivery | ByteViews]:
        """Stream headers and payloads of `rollouts` (called with num_returns="streaming"), behind the blocks `made`.

        Header and payload are two items, so that the coordinator owns a payload without reading it. Ends early when
        the process must leave. Raises BadWindow for invalid values or unreadable blocks.
        """
        blocks = open_blocks(made)
        begun = [block.x0 for block in open_blocks(first)] if self.spec.follows_drift else []
        drift = DriftMeter(self.spec.student.horizon_frames, begun) if self.spec.follows_drift else None
        items = self.actor.windows(rollouts, blocks) if blocks else self.actor.windows(rollouts)
        started = time.time()
        try:
            for item in items:
                if isinstance(item, MadeBlock | Progress):
                    what = "block" if isinstance(item, MadeBlock) else item.what
                    self.tracer.add(what, started, time.time() - started)
                measured = drift.measure(item) if drift is not None and isinstance(item, MadeBlock) else None
                header, payload = seal(item, measured)
                yield Delivery(header, self.tracer.drain())
                if payload is not None:
                    yield payload
                if isinstance(item, Progress) and self.leaving.is_set():
                    return
                started = time.time()
        except (Leaving, StageEnded):
            return
