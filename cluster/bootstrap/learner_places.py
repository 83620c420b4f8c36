"""Release the reserved resources of learner ranks whose driver has ended.

Ray Train reserves them in a placement group that outlives its creator, up to the end of the whole job. Its own cleaner
asks the dashboard which drivers live: a Ray of our own has none, and next to a second Ray it may ask the wrong one.
"""

import asyncio
from collections.abc import Callable

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.config.run_config import Config
from cluster.runs.cluster_interface import Cluster
from cluster.runs.run_log import Progress
from learner.parallel import collectives

_POLL_S = 1.0
_CALL_TIMEOUT_S = 120.0


@ray.remote(num_cpus=0, max_concurrency=1000)
class LearnerPlaces:
    """Watches ranks and removes their places; owned by the process that starts the drivers, so it outlives them."""

    def __init__(self):
        self.watching: set[asyncio.Task] = set()

    async def watch(self, rank: ray.actor.ActorHandle, places: PlacementGroup) -> None:
        """Remove `places` when the process of `rank`, which is in them, has ended for any reason."""
        task = asyncio.create_task(self._remove_after(rank, places))
        self.watching.add(task)
        task.add_done_callback(self.watching.discard)

    async def _remove_after(self, rank: ray.actor.ActorHandle, places: PlacementGroup) -> None:
        while True:
            try:
                await rank.__ray_ready__.remote()
            except RayActorError:
                break
            await asyncio.sleep(_POLL_S)
        remove_placement_group(places)  # nothing where Train has done it, as at the end of a run


def start_places() -> ray.actor.ActorHandle:
    """Start a LearnerPlaces on this process's node, which stays as long."""
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return LearnerPlaces.options(scheduling_strategy=this_node).remote()


def run_watched(
    config: Config, cluster: Cluster, log: Progress, loop: Callable[..., None], places: ray.actor.ActorHandle
) -> None:
    """Run `loop` in a learner rank while `places` watches, to give the ranks' places back if this process ends."""
    if collectives.rank() == 0:
        group = get_current_placement_group()
        assert group is not None, "Ray Train starts ranks in a placement group"
        ray.get(places.watch.remote(ray.get_runtime_context().current_actor, group), timeout=_CALL_TIMEOUT_S)
    loop(config, cluster, log)
