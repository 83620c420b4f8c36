"""Trials on Ray Tune: what ASHA stops, what is started again, what a killed scan does again."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from cluster.planning import placement
from cluster.planning.placement import Role
from cluster.runs.display import Display
from cluster.tuning.ray_tune import tune_in_session
from cluster.tuning.trials import Trial
from settings.compose import ROOT
from settings.scan_arguments import plan
from train import dmd

SMALL = [
    "preset=smoke", "init=assets/tiny/student_uniform.safetensors", "scan.measured_videos=2",
    "scan.measured_horizons=1", "scan.videos=2", "scan.horizons=1", "scan.every=1", "checkpoint.every=1",
    "dmd.critic_updates=1", "rollout.frames=15", "rollout.windows=4",
]  # fmt: skip


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    """As a kernel that never returns: scan.timeout_s is what ends it."""
    threading.Event().wait()


def once(loss, config, cluster, log):
    """Stage dmd in a process that is lost at update 2, the first time."""

    def logged(stage, step, steps, metrics):
        log(stage, step, steps, metrics)
        marker = Path(config.run_dir, "lost")
        if step == 2 and not marker.exists():
            marker.touch()
            loss()

    dmd(config, cluster, logged)


def tune(loop, scan, trials, waiting):
    """As `tune_trials`, on the Ray of the test."""
    inline = scan.cluster.kind == "inline"
    roles = [Role("trial", 1, scan.scan.cpus, 0.0)] if inline else placement.roles(scan)
    with Display() as display:
        return tune_in_session(loop, scan.scan, scan.cluster, roles, scan.run_dir, trials, waiting, display)


def tuned(loop, folder, *keys):
    """Two trials, one of which learns so fast that it drifts at once, beside one that was measured before."""
    scan, (good, bad) = plan([*SMALL, "scan.over={dmd.student_lr: [1e-6, 0.1]}", "scan.seeds=[0]", "scan.keep=0.5",
                              "scan.first_rung=1", f"run_dir={folder}", *keys])  # fmt: skip
    before = Trial("before", {}, replace(scan.plain, run_dir=f"{folder}/before"))
    before.folder.path.mkdir()
    for step in (1, 2):
        before.folder.keep_measurement({"step": step, "drift": 0.5, "time": 0.0})
    assert tune(loop, scan, [before, good, bad], [good, bad]) == {}
    return good.folder, bad.folder


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_asha_stops_the_trial_that_drifts_and_lets_the_other_finish(local_ray, tmp_path):
    good, bad = tuned(dmd, tmp_path, "dmd.steps=3")
    assert good.state == "finished" and [m["step"] for m in good.measurements] == [1, 2, 3]
    assert bad.state == "stopped" and bad.measurements[-1]["step"] < 3
    assert not (bad.path / "dmd/student.safetensors").exists()


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("loss", [dies, hangs])
def test_a_trial_whose_process_is_lost_goes_on_from_its_own_checkpoint(local_ray, tmp_path, loss):
    good, _ = tuned(partial(once, loss), tmp_path, "dmd.steps=4", "scan.timeout_s=45")
    assert good.state == "finished" and (good.path / "lost").exists()
    steps = [json.loads(line)["step"] for line in (good.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 4]


def driver_dies():
    """Called in the rank: the process that Tune started is another one, a child of the same raylet."""
    beside = psutil.Process().parent().children()
    (driver,) = (process for process in beside if "ray::ImplicitFunc" in "".join(process.cmdline()))
    driver.kill()
    hangs()  # until this process has ended with it


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("loss", [dies, driver_dies])
def test_a_run_that_is_stopped_gives_its_room_to_the_next_and_one_that_is_lost_goes_on(
    local_ray, tmp_path, loss, capsys
):
    """Three CPUs hold one run of two. The first is stopped, the second loses its rank, or its driver with all of it."""
    scan, (bad, good) = plan([*SMALL, "scan.over={dmd.student_lr: [0.1, 1e-6]}", "scan.seeds=[0]", "scan.keep=0.5",
                              "scan.first_rung=1", "dmd.steps=30", "cluster=ray", f"run_dir={tmp_path}"])  # fmt: skip
    before = Trial("before", {}, replace(scan.plain, run_dir=f"{tmp_path}/before"))
    before.folder.path.mkdir()
    before.folder.keep_measurement({"step": 1, "drift": 0.5, "time": 0.0})
    unlucky = good.config.run_dir

    def loop(config, cluster, log):
        (partial(once, loss) if config.run_dir == unlucky else dmd)(config, cluster, log)

    assert tune(loop, scan, [before, bad, good], [bad, good]) == {}
    assert bad.folder.state == "stopped" and bad.folder.measurements[-1]["step"] < 30
    assert not (bad.folder.path / "dmd/student.safetensors").exists()
    assert good.folder.state == "finished" and (good.folder.path / "lost").exists()
    again = re.findall(r"(?m)^.*\bseed 0: .*; .*$", capsys.readouterr().out)
    assert len(again) == (loss is driver_dies), "a lost rank is started again inside of its run"
    steps = [json.loads(line)["step"] for line in (good.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, *range(2, 31)], "from its own checkpoint"
    assert [measured["step"] for measured in good.folder.measurements] == list(range(1, 31))


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_fails_every_time_is_told_with_its_reason_and_tried_again_by_the_next_command(local_ray, tmp_path):
    def fails(config, cluster, log):
        raise RuntimeError("bad-luck")

    scan, trials = plan([*SMALL, "window=uniform,prefix", "scan.seeds=[0]", "scan.retries=0", f"run_dir={tmp_path}"])
    failures = tune(fails, scan, trials, trials)
    assert set(failures) == {"uniform, seed 0", "prefix, seed 0"}
    assert all("bad-luck" in reason for reason in failures.values())
    assert [trial.folder.state for trial in trials] == ["unfinished", "unfinished"]


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_scan_goes_on_and_trains_only_what_was_unfinished(tmp_path):
    command = [sys.executable, "tune.py", *SMALL, "window=uniform,prefix", "scan.seeds=[0]", "scan.keep=1",
               "dmd.steps=12", f"run_dir={tmp_path}/scan"]  # fmt: skip
    runs = [tmp_path / f"scan/trials/{arm}/seed_0" for arm in ("uniform", "prefix")]
    metrics = [run / "metrics.jsonl" for run in runs]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        while killed.poll() is None:
            if all(file.exists() and len(file.read_text().splitlines()) >= 3 for file in metrics):
                killed.send_signal(signal.SIGKILL)
                break
        killed.wait(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert again.returncode == 0, again.stderr
    for run, file in zip(runs, metrics, strict=True):
        steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
        assert set(steps) == set(range(1, 13)) and len(steps) < 16, "from a checkpoint, not from the beginning"
        assert load_file(run / "dmd/student.safetensors") and (run / "scores.json").is_file()
    assert (tmp_path / "scan/report.html").is_file() and (tmp_path / "scan/scan.csv").is_file()
    third = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert third.returncode == 0 and "starting Ray" not in third.stdout, "nothing is left to do"
