"""The pool on Ray: actors that come and go, and nodes that Ray's autoscaler brings for them."""

import json
import os
import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch

from cluster.autoscale.loop import FILE, read_looks
from cluster.runs.stage_spec import stage_spec
from models.network_config import TINY
from models.records import CRITIC, STUDENT
from models.wan.network import Wan
from settings.compose import ROOT

WITHIN_S = 60.0


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
def test_actors_that_ray_has_no_place_for_hold_up_nobody_and_are_given_up_when_no_longer_wanted(
    local_ray, small_config
):
    from cluster.ray_cluster import RayCluster
    from cluster.ray_launch import start_coordinator

    config = small_config(rollout__frames=48, buffer__windows=256, buffer__max_age=64)
    cluster = RayCluster(start_coordinator(config.cluster, config.autoscale, config.run_dir))
    try:
        cluster.begin(stage_spec("dmd", config))
        places = int(local_ray.cluster_resources()["CPU"])
        local_ray.get(cluster.coordinator.resize.remote(places + 2), timeout=60)
        torch.manual_seed(0)
        cluster.publish(Wan(TINY).state_dict, 0)
        windows = list(cluster.take(CRITIC, 96))
        assert cluster.metrics()["rollout/actors"] == places + 2
        local_ray.get(cluster.coordinator.resize.remote(1), timeout=60)
        windows += [w for role, n in ((STUDENT, 64), (CRITIC, 96)) for w in cluster.take(role, n)]
        assert {(w.rollout, w.index) for w in windows} == {(r, i) for r in range(16) for i in range(16)}
        deadline = time.monotonic() + 120
        while local_ray.available_resources().get("CPU", 0) < places - 1:
            assert time.monotonic() < deadline, "an actor that nobody wants has its place still, or waits for one"
            time.sleep(0.2)  # for Ray's own account of its resources
        metrics = cluster.metrics()
        assert metrics["rollout/actors"] == 1 and metrics["rollout/actors_lost"] == 0
    finally:
        local_ray.kill(cluster.coordinator)


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_on_rays_autoscaler_the_pool_grows_replaces_half_of_itself_and_shrinks_each_within_a_minute(tmp_path):
    run_dir = tmp_path / "run"
    script = [sys.executable, "-m", "tests.system.scaled", str(run_dir)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shown = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert shown.returncode == 0, shown.stderr[-3000:]
    found = json.loads((run_dir / "found.json").read_text())
    print(found)
    assert found["grown_to"] >= 4 and found["killed"] == found["grown_to"] // 2
    assert found["shrunk_to"] == 1
    assert found["grown_nodes"] == -(-found["grown_to"] // 2) and found["most"] <= 6
    took = {name: found[name] for name in ("grown_s", "replaced_s", "shrunk_s", "nodes_gone_s")}
    assert max(took.values()) <= WITHIN_S, took
    seen = read_looks(run_dir / FILE)
    assert all(1 <= look["decision"]["size"] <= 6 for look in seen)
    assert all(before["decision"]["size"] == after["size"] for before, after in pairwise(seen)), (
        "a decision was not kept"
    )
    changes = [look for look in seen if look["decision"]["size"] != look["size"]]
    assert [look["decision"]["kind"] for look in changes if look["decision"]["kind"] not in ("grow", "shrink")] == []
    lines = [line for line in found["news"] if re.match(r"rollout pool: \D+\d+\D+\d+ actors: .", line)]
    assert len(lines) == len(changes), "each with its reason"
    subprocess.run([sys.executable, "-m", "benchmarks.pool_trace", str(run_dir)], cwd=ROOT, check=True, timeout=120)
    assert (run_dir / "pool_trace.png").stat().st_size > 10_000
