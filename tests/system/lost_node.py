"""Lose a node with the bytes of windows that wait, at once or (argument `drained`) after it was drained.

A script of its own: it brings a cluster of its own.
"""

import json
import os
import sys
import tempfile
import time

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
from ray.cluster_utils import Cluster
from ray.experimental import get_object_locations

from cluster.ray_cluster import RayCluster
from cluster.runs.stage_spec import stage_spec
from cluster.weights.version import WeightsVersion
from models.records import CRITIC, STUDENT
from tests.fakes.sleeping_pool import SleepingCoordinator
from tests.fakes.small_runs import smallest_run
from tests.system.drained import drain

WAITING = 12


def main() -> None:
    """Print the windows that were taken, and the supply's counts."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    first = nodes.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    ray.init(address=nodes.address, log_to_driver=False)
    config = smallest_run(8, side=120)  # a megabyte for each window: more than Ray keeps with a reference
    config.run_dir, config.cluster.rollout_actors, config.buffer.windows = tempfile.mkdtemp(), 1, WAITING
    options = {"num_cpus": 0, "max_concurrency": 1000}
    coordinator = ray.remote(SleepingCoordinator).options(**options).remote(config, 0.01, {"num_cpus": 1})
    cluster = RayCluster(coordinator)
    cluster.begin(stage_spec("dmd", config))
    ray.get(coordinator.publish.remote(cluster.epoch, 0, 0, [ray.put(WeightsVersion(0, {}, None, 0))]))
    while cluster.metrics()["buffer/depth"] < WAITING:
        time.sleep(0.1)  # polling another process
    if "drained" in sys.argv:
        drain(nodes.address, first.node_id)
        payloads = [header.payload for header in ray.get(coordinator.state.remote())[1]]
        while any(set(place["node_ids"]) == {first.node_id} for place in get_object_locations(payloads).values()):
            time.sleep(0.1)  # polling another process
    nodes.remove_node(first, allow_graceful=False)
    state = cluster.state()
    nodes.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    taken = [w for role, n in ((CRITIC, 2), (STUDENT, 2), (CRITIC, 6)) for w in cluster.take(role, n)]
    metrics = cluster.metrics()
    cluster.begin(stage_spec("dmd", config), state)
    ray.get(coordinator.publish.remote(cluster.epoch, 1, 1, [ray.put(WeightsVersion(1, {}, None, 0))]))
    again = [w for role, n in ((CRITIC, 2), (STUDENT, 2), (CRITIC, 6)) for w in cluster.take(role, n)]
    print(json.dumps({
        "taken": [(w.rollout, w.index, w.attempt) for w in taken],
        "restored": [(w.rollout, w.index, w.attempt) for w in again],
        "saved": len(state[1]["waiting"]),
        "counts": {name.partition("/")[2]: n for name, n in metrics.items() if name.startswith("windows/")},
        "depth": metrics["buffer/depth"], "pending": metrics["buffer/pending"],
    }))  # fmt: skip
    sys.stdout.flush()
    ray.shutdown()
    nodes.shutdown()


main()
