"""The plan against runs whose processes sleep where they would compute."""

import json
import subprocess
import sys
import time

import pytest

import settings
from actors.student_actor import blocks_kept
from benchmarks.plan_check import PACE, POOLS, UPDATES, WARM_UP, run_config
from cluster.planning.simulator import simulate
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec
from cluster.supply.ledger import VersionHistory
from cluster.supply.wire import seal, validate_block, validate_sample
from models.records import MadeBlock, Weights
from tests.fakes.sleeping_pool import SleepingActor

BLOCK_S = 0.01


class Published:
    """A new version at every question."""

    version = -1

    def newer(self, than):
        self.version += 1
        return Weights(self.version, {})


def test_a_sleeping_actor_makes_what_was_asked_for_in_the_time_that_it_should_take():
    config = run_config(1, 60, "unused")
    rollouts = make_dispatcher(stage_spec("dmd", config)).rollouts(0)
    began = time.perf_counter()
    items = list(SleepingActor(config, Published(), BLOCK_S).windows(rollouts, []))
    elapsed_s = time.perf_counter() - began
    blocks = [seal(item)[0] for item in items if isinstance(item, MadeBlock)]
    windows = [seal(item)[0] for item in items if not isinstance(item, MadeBlock)]
    versions = VersionHistory((i, i) for i in range(len(blocks) + 1))
    last = blocks[-1].index * config.student.block_frames
    assert last == max(plan.start for rollout in rollouts for plan in rollout.windows) + config.window.frames - 3
    assert [block.version for block in blocks] == list(range(len(blocks)))
    for i, block in enumerate(blocks):
        before = blocks[max(0, i - blocks_kept(config.student, config.window)) : i]
        validate_block(block, before, 2, config.student, versions)
    for window in windows:
        rollout = next(r for r in rollouts if r.id == window.rollout)
        validate_sample(window, rollout, config.student, config.window, versions)
    asked = sorted((r.id, plan.index) for r in rollouts for plan in r.windows)
    assert sorted((window.rollout, window.index) for window in windows) == asked
    assert elapsed_s >= len(blocks) * BLOCK_S


def test_the_pools_of_the_check_starve_the_learner_balance_it_and_outrun_it():
    seen = {
        name: simulate(run_config(actors, waiting, "unused"), PACE, actors, WARM_UP + UPDATES)
        for name, (actors, waiting) in POOLS.items()
    }
    idle = {
        name: (run.settled(WARM_UP).learner_idle_share, run.settled(WARM_UP).rollout_idle_share)
        for name, run in seen.items()
    }
    assert idle["starved"][0] > 0.4 and idle["starved"][1] < 0.01
    assert max(idle["near balance"]) < 0.1
    assert idle["saturated"][0] < 0.05 and idle["saturated"][1] > 0.3
    assert min(idle["held back by the buffer"]) > 0.1


@pytest.mark.ray
@pytest.mark.proof
def test_windows_per_second_of_real_runs_are_predicted_within_a_tenth():
    command = [sys.executable, "-m", "benchmarks.plan_check"]
    shown = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True, timeout=2400)
    assert shown.returncode == 0, shown.stderr
    line = json.loads(shown.stdout.splitlines()[-1])
    assert [run["pool"] for run in line["runs"]] == list(POOLS)
    for run in line["runs"]:
        measured, predicted = run["windows_per_s"]
        assert measured == pytest.approx(predicted, rel=0.1), run
        assert run["learner_idle"][0] == pytest.approx(run["learner_idle"][1], abs=0.1), run
