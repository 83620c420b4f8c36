"""Real processes in the real pool that sleep where a real actor computes."""

import threading
import time
from collections import deque

import ray

from cluster.coordinator import Coordinator
from cluster.errors import Leaving, StageEnded
from cluster.parcels import unwrap, wrap
from cluster.pool import RayPool
from cluster.publication import store_fetch
from cluster.rollout_process import Delivery, RemoteWeights
from cluster.supply import Dispatch
from cluster.trace import Span
from models.rollout import MadeBlock
from tests.cluster.pretend import pretended


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class SleepingProcess:
    """As RolloutProcess: takes up weights at block boundaries, leaves there when it must, streams what it makes."""

    def __init__(self, coordinator, slot, block_s):
        self.coordinator, self.slot, self.block_s, self.weights = coordinator, slot, block_s, None

    def begin(self, stage, config, epoch, relay):
        if self.weights is not None:
            self.weights.close()
        self.config = config
        self.weights = RemoteWeights(store_fetch(self.coordinator, epoch, self.slot), "cpu", threading.Event())
        self.version = None
        return ray.get_runtime_context().get_node_id()

    def windows(self, rollouts, made):
        dispatch = Dispatch(rollouts, deque(unwrap(parcel) for parcel in made))
        try:
            self._pull()
            for item in pretended(self.config, dispatch, lambda: self.version):
                if not isinstance(item, MadeBlock):
                    yield Delivery(wrap(item), [])
                    continue
                time.sleep(self.block_s)
                yield Delivery(wrap(item), [Span(f"rollout {self.slot}", "block", time.time(), self.block_s)])
                self._pull()
        except (Leaving, StageEnded):
            return

    def _pull(self):
        newer = self.weights.newer(self.version)
        if newer is not None:
            self.version = newer.version


class SleepingPool(RayPool):
    """The pool of a run but for the processes in it. Nodes for them come from Ray's autoscaler."""

    def __init__(self, config, coordinator, block_s, options):
        self.block_s, self.options = block_s, options
        super().__init__(config, coordinator)

    def _new(self, slot):
        return SleepingProcess.options(**self.options).remote(self.coordinator, slot, self.block_s)


class SleepingCoordinator(Coordinator):
    """The run's own, with such a pool."""

    def __init__(self, config, block_s, options):
        super().__init__(config, SleepingPool(config, ray.get_runtime_context().current_actor, block_s, options))

    async def pool_size(self):
        """Wanted, and there."""
        return len(self.pool.slots) - len(self.retiring), len(self.pace.running)
