"""A head with Ray's own autoscaler, whose nodes are processes of this machine. Ends only what it started.

Ray's AutoscalingCluster would stop every Ray of the machine, and reads a file that the wheel does not have.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.fakes.started import free_ports

START_TIMEOUT_S = 180.0
_COMMANDS = (
    "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
    "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
"""Nothing of that: Ray asks for the keys."""
_HEAD_ID = "f" * 51 + "00000"


def cluster_config(address: str, node: dict[str, float], labels: dict[str, str], most: int, idle_s: float) -> dict:
    """What `ray start` wants to know: up to `most` nodes of one kind, which go when they were idle."""
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 100,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "rollout": {
                "resources": node,
                "labels": labels,
                "node_config": {},
                "min_workers": 0,
                "max_workers": most,
            },
        },
        "head_node_type": "ray.head.default",
        **{key: {} for key in ("file_mounts", "auth", "docker")},
        **{key: [] for key in _COMMANDS},
        "file_mounts_sync_continuously": False,
    }


@contextmanager
def fake_autoscaler(
    node: dict[str, float], labels: dict[str, str], most: int, idle_s: float = 10.0
) -> Iterator[tuple[str, Path]]:
    """The address of a head without CPUs, and its log folder; nodes like `node` come when something waits for them."""
    with tempfile.TemporaryDirectory(prefix="fake", ignore_cleanup_errors=True) as folder:
        yield from _head(Path(folder), node, labels, most, idle_s)


def _head(
    folder: Path, node: dict[str, float], labels: dict[str, str], most: int, idle_s: float
) -> Iterator[tuple[str, Path]]:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(cluster_config(address, node, labels, most, idle_s)))
    command = [
        Path(sys.executable).parent / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={address.partition(':')[2]}", "--num-cpus=0", "--resources", json.dumps({"head": 1}),
        "--include-dashboard=false", f"--temp-dir={folder}", f"--autoscaling-config={config}",
        f"--object-store-memory={200 * 2**20}",
    ]  # fmt: skip
    fake = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=os.environ | fake, stdout=log, stderr=subprocess.STDOUT)
    ours = psutil.Process(head.pid)
    try:
        _wait_until_up(head, address, folder)
        yield address, folder
    finally:
        ended = [*ours.children(recursive=True), ours] if head.poll() is None else []
        for process in ended:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(ended, timeout=30)
        head.wait(timeout=30)


def _wait_until_up(head: subprocess.Popen, address: str, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and head.poll() is None:
        if "Ray runtime started" in (folder / "head.log").read_text():
            return
        time.sleep(0.2)  # polling a file of another process
    raise TimeoutError(f"no head at {address}: {(folder / 'head.log').read_text()[-2000:]}")
