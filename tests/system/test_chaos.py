"""A run that loses processes of every kind, and a node, and finishes: `make proofs`."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from scipy.stats import chisquare

from settings.compose import ROOT
from tests.fakes.processes import own_processes

EVERY, STEPS = 5, 150
STARTS = range(0, 37, 3)
SILENCE_S = 30.0
DMD = ("stage=dmd", "init=assets/tiny/student_uniform.safetensors")


@pytest.fixture
def four_nodes(monkeypatch):
    """A head and three more raylets on this machine, open (RAY_AUTH_MODE is explicit on both sides)."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 200 * 2**20})
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20) for _ in range(3)]
    yield cluster, nodes
    cluster.shutdown()


class Run:
    """`python train.py` on the cluster, with the time of every line that it says."""

    def __init__(self, run_dir: Path, *keys: str, stage: Sequence[str] = DMD):
        arguments = [
            "preset=smoke", *stage, f"run_dir={run_dir}", "cluster.restarts=10", "rollout.frames=48", "rollout.batch=4",
            "rollout.windows=8", "buffer.windows=128", "buffer.max_age=40", f"checkpoint.every={EVERY}",
            "cluster.progress_timeout_s=60", *keys,
        ]  # fmt: skip
        env = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
        self.lines: list[tuple[float, str]] = [(time.monotonic(), "started")]
        self.process = subprocess.Popen(
            [sys.executable, "train.py", *arguments], cwd=ROOT, env=env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))
            print(f"{time.monotonic():.1f} {line}", end="", flush=True)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def longest_silence_s(self) -> float:
        times = [at for at, _ in self.lines]
        return max(later - earlier for earlier, later in pairwise(times))


def steps_done(run_dir: Path) -> list[int]:
    file = run_dir / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_step(run: Run, run_dir: Path, step: int) -> None:
    """Until `step` was logged after the last rollback."""
    deadline = time.monotonic() + 400
    while not run.ended() and time.monotonic() < deadline:
        done = steps_done(run_dir)
        if done and done[-1] >= step:
            return
        time.sleep(0.1)  # polling a file of another process
    assert not run.ended() and time.monotonic() < deadline, "\n".join(line for _, line in run.lines[-40:])


def kill_one(chance: random.Random, title: str) -> None:
    found = own_processes(title)
    assert found, f"no process is called {title}"
    os.kill(chance.choice(found), signal.SIGKILL)


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_a_run_survives_random_kills_of_everything_and_loses_no_window(four_nodes, tmp_path):
    cluster, nodes = four_nodes
    chance = random.Random(int(os.environ.get("CHAOS_SEED", "0")))
    run_dir = tmp_path / "run"
    keys = (f"cluster.address={cluster.address}", "cluster.rollout_actors=4", "cluster.learner_ranks=2")
    run = Run(run_dir, *keys, f"dmd.steps={STEPS}")
    plan = ["actor"] * 6 + ["node", "rank", "coordinator", "driver", "actor", "actor"]
    chance.shuffle(plan)
    print("plan:", plan)
    runs = [run]
    for i, what in enumerate(plan):
        wait_for_step(runs[-1], run_dir, 6 + i * (STEPS - 20) // len(plan) + chance.randrange(4))
        print(f"{time.monotonic():.1f} kill: {what}")
        if what == "actor":
            kill_one(chance, "ray::RolloutProcess")
        elif what == "rank":
            kill_one(chance, "ray::RayTrainWorker")
        elif what == "coordinator":
            kill_one(chance, "ray::Coordinator")
        elif what == "node":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20))
        else:
            runs[-1].process.kill()
            runs[-1].process.wait(timeout=60)
            runs.append(Run(run_dir, *keys, f"dmd.steps={STEPS}"))
    assert runs[-1].process.wait(timeout=600) == 0, "\n".join(line for _, line in runs[-1].lines[-40:])
    runs[-1].reader.join(timeout=30)
    check_what_happened(runs, run_dir)


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_a_run_of_one_rank_survives_the_loss_of_its_coordinator_while_it_computes(tmp_path):
    """One rank has no peers: what it sees of the loss is a coordinator that knows nothing."""
    run = Run(tmp_path / "run", "dmd.steps=30", "cluster=ray")
    chance = random.Random(0)
    for step in (7, 17):
        wait_for_step(run, tmp_path / "run", step)
        kill_one(chance, "ray::Coordinator")
    assert run.process.wait(timeout=300) == 0, "\n".join(line for _, line in run.lines[-40:])
    steps = steps_done(tmp_path / "run")
    assert sorted(set(steps)) == list(range(1, 31)) and len(steps) > 30


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_stage_grpo_survives_the_loss_of_everything_that_it_is_made_of_and_trains_on_each_group_once(tmp_path):
    """Sentinels, reward processes and schedule included; on a Ray of its own."""
    run_dir, steps, chance = tmp_path / "run", 60, random.Random(0)
    keys = (f"grpo.steps={steps}", "grpo.schedule=cosine", "sentinel.every=10", "cluster.rollout_actors=2")
    runs = [Run(run_dir, *keys, stage=["stage=grpo"])]
    kinds = ("RolloutProcess", "RewardProcess", "RayTrainWorker", "driver", "Coordinator", "RewardProcess")
    for i, what in enumerate(kinds):
        wait_for_step(runs[-1], run_dir, 6 + 8 * i)
        print(f"{time.monotonic():.1f} kill: {what}")
        if what == "driver":
            runs[-1].process.kill()
            runs[-1].process.wait(timeout=60)
            runs.append(Run(run_dir, *keys, stage=["stage=grpo"]))
        else:
            kill_one(chance, f"ray::{what}")
    assert runs[-1].process.wait(timeout=600) == 0, "\n".join(line for _, line in runs[-1].lines[-40:])
    metrics, taken = what_happened(runs, run_dir, steps)
    assert sum(group["role"] == "grpo" for group in taken) == 2 * steps
    assert all(name not in metrics[-1] or not metrics[-1][name] for name in ("reward/flow_continuity/failed",))
    watched = [line["step"] for line in metrics if "sentinel/tiny_motion" in line]
    assert set(watched) == set(range(1, steps, 10))


def check_what_happened(runs: list[Run], run_dir: Path) -> None:
    metrics, taken = what_happened(runs, run_dir, STEPS)
    assert len(taken) == metrics[-1]["windows/taken"] == STEPS * 2 * 4
    assert max(run.longest_silence_s() for run in runs) <= SILENCE_S
    for role in ("student", "critic"):
        starts = Counter(window["start"] for window in taken if window["role"] == role)
        p = chisquare([starts[start] for start in STARTS]).pvalue
        print(f"{role}: {sum(starts.values())} windows, chi-square p = {p:.3g}")
        assert p > 1e-4, starts


def what_happened(runs: list[Run], run_dir: Path, total: int) -> tuple[list[dict], list[dict]]:
    """Metrics by line, and what was trained on; nothing was lost, used twice, refused, or repeated without need."""
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in metrics]
    back = [earlier - later + 1 for earlier, later in pairwise(steps) if later <= earlier]
    print("rolled back by:", back, "longest silence:", [round(run.longest_silence_s(), 1) for run in runs])
    assert sorted(set(steps)) == list(range(1, total + 1))
    assert max(back, default=0) <= EVERY + 1, "more than the updates since the last checkpoint were repeated"

    versions = [line["weights/version"] for line in metrics]
    assert len(set(versions)) == len(versions) and versions == sorted(versions), "a version number was used twice"

    last = metrics[-1]
    counts = {name.partition("/")[2]: n for name, n in last.items() if name.startswith("windows/")}
    assert counts["dispatched"] == counts["taken"] + last["buffer/depth"] + last["buffer/pending"]
    assert counts["refused"] == 0, "no window was spliced, damaged or of a lost timeline"

    surviving = {}  # of a step that was repeated the last time counts
    for line in (run_dir / "windows.jsonl").read_text().splitlines():
        entry = json.loads(line)
        surviving[entry["step"]] = entry["windows"]
    taken = [window for step in sorted(surviving) for window in surviving[step]]
    keys = Counter((window["rollout"], window["index"]) for window in taken)
    assert max(keys.values()) == 1, "a window was trained on twice"
    return metrics, taken


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_an_actor_on_a_draining_node_leaves_and_its_videos_go_on_elsewhere():
    script = [sys.executable, "-m", "tests.system.drained"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shown = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert shown.returncode == 0, shown.stderr[-3000:]
    found = json.loads(shown.stdout.splitlines()[-1])
    assert (found["windows"], found["attempts"]) == (128, [0]), "every window, of the videos that were begun"
    assert any("draining" in line for line in found["news"]) and any(" left" in line for line in found["news"])


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("drained", [False, True])
def test_windows_whose_bytes_die_with_their_node_come_in_the_same_order_made_again_unless_it_drained(drained):
    script = [sys.executable, "-m", "tests.system.lost_node", *["drained"] * drained]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shown = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert shown.returncode == 0, shown.stderr[-3000:]
    found = json.loads(shown.stdout.splitlines()[-1])
    taken, restored = ([(rollout, index) for rollout, index, _ in found[name]] for name in ("taken", "restored"))
    assert taken == restored and len(set(taken)) == 10
    assert all((attempt == 0) == drained for name in ("taken", "restored") for _, _, attempt in found[name])
    counts = found["counts"]
    assert (found["saved"], counts["lost"] >= 10) == ((12, False) if drained else (0, True)) and counts["refused"] == 0
    assert counts["dispatched"] == counts["taken"] + found["depth"] + found["pending"]
    assert counts["delivered"] == counts["taken"] + found["depth"]
