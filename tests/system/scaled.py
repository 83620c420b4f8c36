"""A learner that starves, loses half of its actors, and saturates, on nodes of Ray's autoscaler.

A script of its own, because it brings a cluster of its own: python -m tests.system.scaled <new run folder>
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
import torch

from cluster.config.autoscale_config import AutoscaleConfig
from cluster.config.run_config import Config
from cluster.planning.pool_balance import made_share, pool_size
from cluster.ray_cluster import RayCluster
from cluster.runs.factory import make_dispatcher
from cluster.runs.run_log import RunLog
from cluster.runs.stage_spec import stage_spec
from models.records import CRITIC, STUDENT
from tests.fakes.fake_autoscaler import fake_autoscaler
from tests.fakes.processes import own_processes
from tests.fakes.sleeping_pool import SleepingCoordinator
from tests.fakes.small_runs import small

BLOCK_S = 0.4
FAST_S, SLOW_S = 0.055, 0.4
"""The learner's seconds per window."""
MOST_S = 240.0
IDLE_S = 5.0
"""Until the autoscaler takes away a node with nothing on it."""
FOUND = "found.json"
"""In the run folder: what happened."""
SLOT = {"num_cpus": 1, "resources": {"rollout_slot": 1}, "label_selector": {"role": "rollout"}}


class WatchedCoordinator(SleepingCoordinator):
    """Says how large its pool is."""

    async def pool_size(self):
        """Actors wanted, and there, and slots of all, those included who are to leave."""
        return len(self.slots.without_retiring), self.meter.levels["running"], len(self.slots)


def run_config(run_dir: Path) -> Config:
    config = small(windows=192, max_age=12)
    config.dmd.batch_size = 8
    config.run_dir, config.wandb.mode = str(run_dir), "disabled"
    config.cluster.rollout_actors, config.cluster.timeout_s = 1, 400.0
    config.autoscale = AutoscaleConfig(
        enabled=True, maximum=6, growth=8.0, every_s=1.0, measured_s=8.0, grow_after_s=8.0, shrink_after_s=12.0
    )
    return config


class Learner:
    """Takes as train.py does, and sleeps where it would compute."""

    def __init__(self, config: Config, cluster: RayCluster):
        self.config, self.cluster, self.window_s, self.update = config, cluster, FAST_S, 0
        self.taken, self.requests, self.most = [], 0, 0
        self.log = RunLog(config.run_dir, config.wandb, cluster, lambda *_: None)
        cluster.begin(stage_spec("dmd", config))
        self.publish()

    def publish(self) -> None:
        self.cluster.publish(lambda: {"w": torch.zeros(4)}, self.update)

    def learn(self) -> None:
        """One update of the student, and the critic's before it."""
        for role in [CRITIC] * self.config.dmd.critic_updates + [STUDENT]:
            self.taken += self.cluster.take(role, self.config.dmd.batch_size)
            time.sleep(self.window_s * self.config.dmd.batch_size)
        self.update += 1
        self.publish()
        self.log("dmd", self.update, 1000, self.cluster.metrics())

    def sizes(self) -> tuple[int, int]:
        """Actors wanted, and there."""
        wanted, there, slots = ray.get(self.cluster.coordinator.pool_size.remote(), timeout=60)
        self.most = max(self.most, slots)
        return wanted, there

    def until(self, reached) -> float:
        """Learn until `reached(wanted, there)`; seconds that took."""
        began = time.monotonic()
        while not reached(*self.sizes()):
            if time.monotonic() - began > MOST_S:
                raise TimeoutError(f"the pool has {self.sizes()} actors (wanted, there) after {MOST_S} s")
            self.learn()
        return time.monotonic() - began


def rollout_nodes() -> int:
    """Nodes that Ray's autoscaler has brought and not taken away."""
    return sum(node["Alive"] and "rollout_slot" in node["Resources"] for node in ray.nodes())


def lawful(learner: Learner) -> dict[str, int]:
    """That every window came exactly once, as it was drawn at dispatch, up to the first rollout that is not done."""
    config, taken = learner.config, learner.taken
    came = Counter((window.rollout, window.index) for window in taken)
    assert set(came.values()) == {1}, "a window came twice"
    per_rollout = Counter(window.rollout for window in taken)
    closed = next(i for i in range(10**6) if per_rollout[i] < config.rollout.windows)
    drawn = {
        (rollout.id, plan.index): (plan.role, plan.start)
        for first in range(0, max(per_rollout) + 1, config.rollout.batch)
        for rollout in make_dispatcher(stage_spec("dmd", config)).rollouts(first)
        for plan in rollout.windows
    }
    assert all(drawn[window.rollout, window.index] == (window.role, window.start) for window in taken)
    _, state = learner.cluster.state()  # all of one moment: the pool goes on meanwhile
    counts, pending, held = Counter(state["buffer"]["counts"]), state["buffer"]["pending"], state["waiting"]
    assert counts["dispatched"] == counts["taken"] + len(held) + len(pending), counts
    assert counts["taken"] == len(taken) and counts["refused"] == 0, counts
    return {"taken": len(taken), "rollouts_whole": closed}


def main(run_dir: Path) -> None:
    run_dir.mkdir(parents=True)
    config = run_config(run_dir)
    dispatch_s = (
        made_share(make_dispatcher(stage_spec("dmd", config)), config.rollout, config.window)
        * config.rollout.frames
        / config.student.block_frames
        * BLOCK_S
    )
    needed = pool_size(dispatch_s, config.rollout.batch * config.rollout.windows, FAST_S, 1)
    node = {"CPU": 2, "rollout_slot": 2, "object_store_memory": 80 * 2**20}
    with fake_autoscaler(node, {"role": "rollout"}, most=3, idle_s=IDLE_S) as (address, _):
        ray.init(address=address, log_to_driver=False)
        try:
            scene(config, needed)
        finally:
            ray.shutdown()


def scene(config: Config, needed: int) -> None:
    coordinator = ray.remote(WatchedCoordinator).options(
        num_cpus=0, resources={"head": 0.001}, max_concurrency=1000
    ).remote(config, BLOCK_S, SLOT)  # fmt: skip
    learner = Learner(config, RayCluster(coordinator))
    found = {"needed": needed, "first_actor_s": learner.until(lambda wanted, there: there >= 1 and learner.update > 1)}
    print(found, file=sys.stderr, flush=True)
    found["grown_s"] = learner.until(lambda wanted, there: there >= needed - 1 and there == wanted)
    found["grown_to"] = learner.sizes()[1]
    print(found, file=sys.stderr, flush=True)
    victims = own_processes("ray::SleepingProcess")[: found["grown_to"] // 2]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    learner.until(lambda wanted, there: there < found["grown_to"])
    learner.until(lambda wanted, there: there >= found["grown_to"])
    found |= {"killed": len(victims), "replaced_s": time.monotonic() - killed}
    print(found, file=sys.stderr, flush=True)
    found["grown_nodes"] = rollout_nodes()
    learner.window_s = SLOW_S
    found["shrunk_s"] = learner.until(lambda wanted, there: wanted <= 1 and there <= 1)
    found["shrunk_to"] = learner.sizes()[1]
    print(found, file=sys.stderr, flush=True)
    found["nodes_gone_s"] = learner.until(lambda wanted, there: rollout_nodes() == 1)
    print(found, file=sys.stderr, flush=True)
    learner.window_s = FAST_S
    found["grown_again_s"] = learner.until(lambda wanted, there: there >= needed - 1)
    learner.log.close()
    _, news, _ = ray.get(coordinator.look.remote(), timeout=60)
    found["most"] = learner.most
    facts = {key: round(value, 1) for key, value in found.items()} | lawful(learner) | {"news": news}
    Path(config.run_dir, FOUND).write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
