"""A trial in this process, and what ASHA is told of trials of commands before this one."""

import json
from types import SimpleNamespace

import pytest
import torch
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cluster.config.run_config import Config
from cluster.config.scan_config import ScanConfig
from cluster.tuning.ray_tune import make_scheduler
from cluster.tuning.run_trial import run_trial
from cluster.tuning.trials import Trial
from settings.scan_arguments import plan
from train import dmd

SMALL = [
    "preset=smoke", "init=assets/tiny/student_uniform.safetensors", "scan.measured_videos=1",
    "scan.measured_horizons=1", "scan.videos=2", "scan.horizons=1", "scan.every=1", "checkpoint.every=1", "dmd.steps=3",
    "dmd.critic_updates=1", "rollout.frames=15", "rollout.windows=4",
]  # fmt: skip


class Killed(BaseException):
    """As if the trial's process had been ended here."""


def one_trial(folder):
    scan, (trial,) = plan([*SMALL, "scan.over={window: [uniform]}", "scan.seeds=[0]", f"run_dir={folder}"])
    return trial, scan.scan


def test_a_trial_that_was_cut_off_goes_on_from_its_checkpoint_to_the_same_scores_and_is_an_ordinary_run(tmp_path):
    whole, scan = one_trial(tmp_path / "whole")
    reports = []
    run_trial(dmd, whole, scan, reports.append)
    assert [measured["step"] for measured in reports] == [1, 2, 3] and reports == whole.folder.measurements

    def kill_after_two(measured):
        if measured["step"] == 2:
            raise Killed

    cut, scan = one_trial(tmp_path / "cut")
    with pytest.raises(Killed):
        run_trial(dmd, cut, scan, kill_after_two)
    assert cut.folder.state == "unfinished" and len(cut.folder.measurements) == 2
    again = []
    run_trial(dmd, cut, scan, again.append)
    assert [measured["step"] for measured in again] == [2, 3], "update 2 had no checkpoint yet"
    assert cut.folder.state == whole.folder.state == "finished"
    assert cut.folder.scores["metrics"] == whole.folder.scores["metrics"]
    assert torch.equal(cut.folder.video, whole.folder.video) and len(cut.folder.video) == 2
    drifts = [[m["drift"] for m in trial.folder.measurements] for trial in (cut, whole)]
    assert drifts[0] == drifts[1]
    steps = [json.loads(line)["step"] for line in (cut.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3] and (cut.folder.path / "config.yaml").is_file()


@pytest.fixture
def measured(tmp_path):
    """Nine trials of 90 updates."""
    configs = [Config(run_dir=f"{tmp_path}/{number}", stage="dmd", seed=number) for number in range(9)]
    trials = [Trial("arm", {}, config) for config in configs]
    for trial in trials:
        trial.config.dmd.steps = 90
        trial.folder.path.mkdir(parents=True)
    return ScanConfig(keep=0.34, first_rung=10), trials


def test_asha_decides_as_if_it_had_seen_what_was_measured_in_commands_before(measured):
    scan, trials = measured
    live = make_scheduler(scan, trials)
    drift = {trial.name: number / 10 for number, trial in enumerate(trials)}
    for number, trial in enumerate(trials[:6]):
        live.on_trial_add(None, SimpleNamespace(trial_id=trial.name, config={}))
        found = {"step": 10, "drift": drift[trial.name], "time": float(number)}
        live.on_trial_result(None, SimpleNamespace(trial_id=trial.name, config={}), found)
        trial.folder.keep_measurement(found)
    resumed = make_scheduler(scan, trials)
    late = SimpleNamespace(trial_id="late", config={})
    for value, expected in ((0.01, TrialScheduler.CONTINUE), (0.45, TrialScheduler.STOP)):
        decided = []
        for scheduler in (live, resumed):
            scheduler.on_trial_add(None, late)
            decided.append(scheduler.on_trial_result(None, late, {"step": 10, "drift": value}))
            late = SimpleNamespace(trial_id=f"{late.trial_id}+", config={})
        assert decided == [expected, expected]


def test_a_trial_that_came_past_a_rung_before_is_not_judged_there_again(measured):
    scan, trials = measured
    for number, trial in enumerate(trials):
        trial.folder.keep_measurement({"step": 10, "drift": number / 10, "time": float(number)})
    resumed = make_scheduler(scan, trials)
    for trial in trials:  # each goes on from its checkpoint and measures there once more
        tuned = SimpleNamespace(trial_id=f"new {trial.name}", config={"trial": trial.name})
        resumed.on_trial_add(None, tuned)
        again = {"step": 10, "drift": trial.folder.measurements[0]["drift"]}
        assert resumed.on_trial_result(None, tuned, again) == TrialScheduler.CONTINUE


def test_where_every_trial_is_kept_none_can_be_stopped(measured):
    scan, trials = measured
    scan.keep = 1.0
    assert type(make_scheduler(scan, trials)) is FIFOScheduler


def test_a_measurement_of_a_step_that_was_measured_before_takes_its_place(measured):
    folder = measured[1][0].folder
    for step, drift in ((25, 0.1), (50, 0.2), (25, 0.3)):
        folder.keep_measurement({"step": step, "drift": drift, "time": 0.0})
    assert [(m["step"], m["drift"]) for m in folder.measurements] == [(25, 0.3)]
