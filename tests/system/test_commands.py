"""Whole commands, as people give them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest
from safetensors.torch import load_file

from settings.compose import ROOT


def command(*arguments, env=None, timeout=300):
    return subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout
    )


def assert_every_stage_ran(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert Counter(line["stage"] for line in lines) == {"teacher": 4, "ode": 4, "dmd": 4, "grpo": 4}
    assert load_file(run_dir / "dmd/student.safetensors")
    assert load_file(run_dir / "grpo/student.safetensors")
    return lines


@pytest.mark.proof
@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path):
    arguments = [sys.executable, "train.py", "preset=smoke", "cluster=inline", f"run_dir={tmp_path}/run"]
    arguments += ["checkpoint.every=1", "dmd.steps=16", "stage=[teacher,ode,dmd]"]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        metrics = tmp_path / "run/metrics.jsonl"
        while run.poll() is None:
            written = metrics.read_text() if metrics.exists() else ""
            if written.count('"dmd"') >= 3:
                run.send_signal(signal.SIGKILL)
                break
        run.wait(timeout=60)
    assert run.returncode == -signal.SIGKILL
    again = subprocess.run([*arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    steps = [line["step"] for line in map(json.loads, metrics.read_text().splitlines()) if line["stage"] == "dmd"]
    assert set(steps) == set(range(1, 17))
    assert len(steps) <= 17, "at most the update since the last checkpoint is done again"


@pytest.mark.core
@pytest.mark.proof
@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_in_one_line_and_keeps_the_last_checkpoint(tmp_path):
    arguments = ("preset=smoke", "cluster=inline", f"run_dir={tmp_path}/run", "checkpoint.every=1")
    shown = command(*arguments, "dmd.student_lr=1e9", "dmd.steps=3")
    assert shown.returncode == 1
    assert re.search(r"(?i)\b(nan|inf|finite)\b", shown.stderr)
    assert shown.stderr.count("\n") == 1 and "Traceback" not in shown.stderr
    from cluster.runs.checkpoints import checkpoint

    checkpoint.verify(checkpoint.paths(tmp_path / "run/dmd/checkpoints")[-1])
    assert not (tmp_path / "run/dmd/student.safetensors").exists()


@pytest.mark.proof
@pytest.mark.core
@pytest.mark.slow
@pytest.mark.ray
def test_the_smoke_run_does_every_stage_on_a_ray_of_its_own_and_leaves_no_token_behind(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    shown = command("preset=smoke", f"run_dir={tmp_path}/run", env=env)
    assert shown.returncode == 0, shown.stderr
    lines = assert_every_stage_ran(tmp_path / "run")
    assert all(0 <= line["rollout/busy_share"] <= 1 for line in lines if line["stage"] == "dmd")
    assert not (tmp_path / ".ray").exists(), "a token file would make clusters that are started later demand tokens"


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.parametrize("cluster", ["ray", "inline"])
def test_sigterm_ends_a_run_in_one_line_with_its_own_status(cluster, tmp_path):
    arguments = [
        "preset=smoke", f"cluster={cluster}", f"run_dir={tmp_path}/run", "stage=dmd", "dmd.steps=100000",
        "init=assets/tiny/student_uniform.safetensors",
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        while "dmd: 1/" not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM and said.startswith("train.py: stopped; ") and said.count("\n") == 1
