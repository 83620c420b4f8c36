"""Compare the simulator's windows per second with real runs whose compute is simulated.

python -m benchmarks.plan_check   a local Ray, sleeping rollout processes and a sleeping learner; about ten minutes

Processes, coordinator, object store, weights and the learner's verbs are those of a run. What sleeps is scaled down to
rollouts of 20 blocks, two videos each, and updates of twelve windows: a pool that starves the learner, one near
balance, one that is too large, and one that finds no room in a small buffer, so that neither half reaches its own
rate. Publishing and logging are part of `publish_s`, as packing is of `block_s`. The first WARM_UP updates are not
counted. `value` is the largest deviation.
"""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

from actors.rollout_config import RolloutConfig, WindowConfig
from benchmarks.command import NoKeys, run
from benchmarks.line import print_line
from cluster.bootstrap.ray_environment import settle_environment
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.runs.stage_spec import stage_spec

settle_environment(ClusterConfig())  # Ray reads its environment when it is imported

import ray  # noqa: E402
import torch  # noqa: E402

from cluster.planning.simulator import Pace, simulate  # noqa: E402
from cluster.ray_cluster import RayCluster  # noqa: E402
from learner.stage_config import DmdConfig  # noqa: E402
from models.network_config import StudentConfig  # noqa: E402
from models.records import CRITIC, STUDENT  # noqa: E402
from tests.fakes.sleeping_pool import start_sleeping  # noqa: E402

POOLS = {"starved": (2, 60), "near balance": (4, 60), "saturated": (7, 60), "held back by the buffer": (7, 48)}
"""Number of actors and buffer.windows, by name of the pool."""
PACE = Pace(block_s=0.8, cut_s=0.0, student_s=0.9, critic_s=0.45, publish_s=0.35)
WARM_UP, UPDATES = 6, 16
BAR = 0.1


def run_config(actors: int, waiting: int, run_dir: str) -> Config:
    """Make videos of five horizons, six windows from each, one of them the student's."""
    return Config(
        run_dir=run_dir,
        student=StudentConfig(height=4, width=4),
        rollout=RolloutConfig(frames=60, batch=2, windows=6),
        window=WindowConfig(frames=12, burn_in_frames=9),
        dmd=DmdConfig(batch_size=2, critic_updates=5),
        buffer=BufferConfig(windows=waiting),
        cluster=ClusterConfig(rollout_actors=actors, timeout_s=120.0),
    )


@dataclass(frozen=True)
class Measured:
    """Holds the rates of a real run after its first updates."""

    windows_per_s: float
    learner_idle_share: float
    rollout_idle_share: float


class SleepingLearner:
    """Runs the loop of train.py around the run's own cluster; its own overhead counts towards each step."""

    def __init__(self, cluster: RayCluster, config: Config, pace: Pace):
        self.cluster, self.config = cluster, config
        self.weights = {"weight": torch.zeros(1)}
        critics = [(CRITIC, pace.critic_s)] * config.dmd.critic_updates
        self.takes, self.publish_s = [*critics, (STUDENT, pace.student_s)], pace.publish_s

    def update(self, number: int) -> tuple[float, float, float]:
        """Note an update's seconds, those waited for windows, and the idle seconds of all actors together."""
        began, waited_s = time.perf_counter(), 0.0
        for role, seconds in self.takes:
            asked = time.perf_counter()
            self.cluster.take(role, self.config.dmd.batch_size)
            waited_s += time.perf_counter() - asked
            time.sleep(seconds)
        learnt = time.perf_counter()
        self.cluster.publish(lambda: self.weights, number)
        metrics = self.cluster.metrics()
        time.sleep(max(0.0, learnt + self.publish_s - time.perf_counter()))
        elapsed_s = time.perf_counter() - began
        return elapsed_s, waited_s, metrics["rollout/idle_share"] * metrics["rollout/actors"] * elapsed_s


def measure(config: Config, pace: Pace) -> Measured:
    """Run on the connected Ray and measure it."""
    coordinator = start_sleeping(config, pace.block_s)
    try:
        cluster = RayCluster(coordinator)
        cluster.begin(stage_spec("dmd", config))
        learner = SleepingLearner(cluster, config, pace)
        cluster.publish(lambda: learner.weights, 0)
        seen = [learner.update(number) for number in range(1, WARM_UP + UPDATES + 1)][WARM_UP:]
    finally:
        ray.kill(coordinator)
    elapsed_s, waited_s, idle_s = (sum(part) for part in zip(*seen, strict=True))
    windows = UPDATES * config.samples_per_update("dmd")
    return Measured(windows / elapsed_s, waited_s / elapsed_s, idle_s / elapsed_s / config.cluster.rollout_actors)


def compare(name: str) -> dict[str, Any]:
    """Run with one of the POOLS and compare: [measured, predicted]."""
    actors, waiting = POOLS[name]
    with tempfile.TemporaryDirectory() as run_dir:
        config = run_config(actors, waiting, run_dir)
        measured, predicted = measure(config, PACE), simulate(config, PACE, actors, WARM_UP + UPDATES)
    windows_per_s = predicted.settled(WARM_UP).windows_per_s
    return {
        "pool": name,
        "actors": actors,
        "buffer_windows": waiting,
        "windows_per_s": [round(measured.windows_per_s, 3), round(windows_per_s, 3)],
        "learner_idle": [
            round(measured.learner_idle_share, 3),
            round(predicted.settled(WARM_UP).learner_idle_share, 3),
        ],
        "rollout_idle": [
            round(measured.rollout_idle_share, 3),
            round(predicted.settled(WARM_UP).rollout_idle_share, 3),
        ],
        "ratio": round(measured.windows_per_s / windows_per_s, 4),
    }


def main(_: NoKeys) -> None:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    runs = [compare(name) for name in POOLS]
    ray.shutdown()
    config = {"pace": vars(PACE), "updates": UPDATES, "warm_up": WARM_UP}
    ratios = [run["ratio"] for run in runs]
    worst = max(abs(1 - ratio) for ratio in ratios)
    device = "simulated: sleeping processes and learner, local Ray"
    print_line("plan_check", ratios, "of the predicted windows/s", device, config, BAR, worst, runs=runs)


if __name__ == "__main__":
    run(main, __doc__)
