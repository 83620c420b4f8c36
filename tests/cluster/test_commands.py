"""Whole commands, as people give them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from settings import ROOT

BIN = Path(sys.executable).parent


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


@pytest.mark.slow
def test_the_smoke_run_does_every_stage_inline_and_a_second_command_has_nothing_left_to_do(tmp_path):
    arguments = ("preset=smoke", "cluster=inline", f"run_dir={tmp_path}/run")
    shown = command(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert_every_stage_ran(tmp_path / "run")
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert_every_stage_ran(tmp_path / "run")


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


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_in_one_line_and_keeps_the_last_checkpoint(tmp_path):
    arguments = ("preset=smoke", "cluster=inline", f"run_dir={tmp_path}/run", "checkpoint.every=1")
    shown = command(*arguments, "dmd.student_lr=1e30", "dmd.steps=3")
    assert shown.returncode == 1
    assert "not finite" in shown.stderr or "gradient norm nan" in shown.stderr or "loss nan" in shown.stderr
    assert shown.stderr.count("\n") == 1 and "Traceback" not in shown.stderr
    from learner import checkpoint

    checkpoint.verify(checkpoint.newest(tmp_path / "run/dmd/checkpoints"))
    assert not (tmp_path / "run/dmd/student.safetensors").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_the_smoke_run_does_every_stage_on_a_ray_of_its_own_and_leaves_no_token_behind(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    shown = command("preset=smoke", f"run_dir={tmp_path}/run", env=env)
    assert shown.returncode == 0, shown.stderr
    lines = assert_every_stage_ran(tmp_path / "run")
    assert all(0 <= line["rollout/busy_share"] <= 1 for line in lines if line["stage"] == "dmd")
    assert not (tmp_path / ".ray").exists(), "a token file would make clusters that are started later demand tokens"


@pytest.fixture(params=["open", "token"])
def head(request, tmp_path):
    """A `ray start --head` that nothing of this repository is installed on, with and without a token on the machine."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path / "home"), "RAY_USAGE_STATS_ENABLED": "0"}
    (tmp_path / "home").mkdir()
    if request.param == "token":
        (tmp_path / "home/.ray").mkdir()
        (tmp_path / "home/.ray/auth_token").write_text("0123456789abcdef" * 4)
        env["RAY_AUTH_MODE"] = "token"
    port, dashboard, client, agent = free_ports(4)
    start = [BIN / "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    start += [
        "--num-cpus=3",
        "--include-dashboard=true",
        "--object-store-memory=268435456",
        f"--ray-client-server-port={client}",
    ]
    start += [f"--temp-dir={short_folder(request)}", "--disable-usage-stats", f"--dashboard-agent-listen-port={agent}"]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(start, env=env, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for_answer(dashboard, process, tmp_path / "head.log")
            yield f"http://127.0.0.1:{dashboard}", env
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


def wait_for_answer(port, process, log):
    """Until the dashboard accepts connections; a head that has died says why."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text())


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def short_folder(request):
    """Ray's sockets live here, and a socket's path may have 107 characters."""
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="ray-")
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.ray
def test_ray_job_submit_runs_the_smoke_preset_on_a_cluster_with_nothing_installed(head, tmp_path):
    address, env = head
    submit = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--"]
    submit += [sys.executable, "train.py", "preset=smoke", f"run_dir={tmp_path}/run"]
    shown = subprocess.run(submit, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert shown.returncode == 0, shown.stdout[-3000:] + shown.stderr[-3000:]
    assert_every_stage_ran(tmp_path / "run")
