"""A node that is drained under a running actor. A script of its own: it brings a cluster of its own."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
import torch
from ray.cluster_utils import Cluster

from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.ray_cluster import RayCluster
from cluster.ray_launch import start_coordinator
from cluster.runs.stage_spec import stage_spec
from models.network_config import TINY
from models.records import CRITIC, STUDENT
from models.wan.network import Wan


def drain(address: str, node: str) -> None:
    """Tell Ray that a node goes away in five minutes."""
    command = [Path(sys.executable).parent / "ray", "drain-node", f"--address={address}", f"--node-id={node}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=300"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def main() -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    drained = nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=nodes.address, log_to_driver=False)
    config = Config(
        run_dir=tempfile.mkdtemp(), buffer=BufferConfig(windows=256, max_age=64), cluster=ClusterConfig(timeout_s=120.0)
    )
    config.rollout.windows, config.rollout.frames = 16, 1200
    cluster = RayCluster(start_coordinator(config.cluster, config.autoscale, config.run_dir))
    cluster.begin(stage_spec("dmd", config))
    torch.manual_seed(0)
    cluster.publish(Wan(TINY).state_dict, 0)
    windows = list(cluster.take(CRITIC, 1))
    nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    drain(nodes.address, drained.node_id)
    windows += [w for role, n in ((STUDENT, 32), (CRITIC, 95)) for w in cluster.take(role, n)]
    _, news, _ = ray.get(cluster.coordinator.look.remote(), timeout=30)
    found = {"windows": len({(w.rollout, w.index) for w in windows}), "attempts": sorted({w.attempt for w in windows})}
    print(json.dumps(found | {"news": news}))
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main()
