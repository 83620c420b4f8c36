"""What a run tells: files, terminal, Weights & Biases; and what it never tells."""

import json
import os
import pty
import re
import secrets
import subprocess
import sys
from types import SimpleNamespace

import pytest

import settings
from cluster.config.cluster_config import WandbConfig
from cluster.launch import preflight
from cluster.runs.cluster_interface import Report
from cluster.runs.run_log import RunLog, line_of
from cluster.runs.wandb_log import bars, by_start, check_login
from models.errors import ConfigError


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A home without a login."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_wandb_online_without_a_login_is_refused_in_one_line_before_anything_starts(nobody):
    config = settings.load(["preset=smoke", "wandb.mode=online", f"run_dir={nobody}/run"])
    with pytest.raises(ConfigError) as caught:
        preflight(config)
    assert caught.value.key == "wandb.mode"
    assert not (nobody / "run").exists()


def logged_in() -> bool:
    try:
        check_login(WandbConfig(mode="online"))
    except ConfigError as error:
        assert error.key == "wandb.mode" and error.problem == "this machine has no login"
        return False
    return True


def test_a_login_is_found_in_the_environment_or_in_the_netrc_file_for_the_same_server(nobody, monkeypatch):
    assert not logged_in()
    (nobody / ".netrc").write_text("machine wandb.example.org\n  login user\n  password nothing\n")
    assert not logged_in(), "another server's"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert logged_in()
    monkeypatch.setenv("NETRC", str(nobody / "elsewhere"))
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert logged_in()


def test_a_netrc_file_that_cannot_be_read_is_named_without_quoting_it(nobody):
    (nobody / ".netrc").write_text("machine api.wandb.ai\n  login user\n  hunter2 hunter2\n")
    with pytest.raises(ConfigError, match=r"\.netrc .*line \d") as caught:
        check_login(WandbConfig(mode="online"))
    assert caught.value.key == "wandb.mode" and "hunter2" not in str(caught.value) and caught.value.__suppress_context__


HIDDEN = {"WANDB_API_KEY": secrets.token_hex(20), "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The folder of two updates, logged to Weights & Biases offline by a process with secrets; and its output."""
    run_dir = tmp_path_factory.mktemp("logged") / "run"
    command = [sys.executable, "train.py", "preset=smoke", "cluster=inline", "stage=dmd", f"run_dir={run_dir}"]
    command += ["init=assets/tiny/teacher.safetensors", "dmd.steps=2", "wandb.mode=offline"]
    shown = subprocess.run(
        command, cwd=settings.ROOT, env=os.environ | HIDDEN, capture_output=True, text=True, timeout=300
    )
    assert shown.returncode == 0, shown.stderr
    return run_dir, shown.stdout + shown.stderr


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_key_or_a_token(logged):
    run_dir, output = logged
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.yaml", "metrics.jsonl", "windows.jsonl", "trace.json"} <= names
    assert any(name.endswith(".wandb") for name in names), "wandb has written its files"
    for path in files:
        content = path.read_bytes()
        for name, value in HIDDEN.items():
            assert value.encode() not in content, f"{path} holds {name}"
    assert not any(value in output for value in HIDDEN.values())


def test_the_line_beside_the_bar_tells_losses_who_is_busy_what_waits_and_what_was_lost():
    metrics = {
        "critic/loss": 1.25, "student/loss": 0.5, "student/grad_norm": 9.0, "learner/busy_share": 0.98,
        "rollout/busy_share": 0.5, "buffer/depth": 12, "rollout/actors_lost": 2, "buffer/starts": {"critic": {0: 1}},
    }  # fmt: skip
    line = line_of(metrics)
    assert re.findall(r"[\d.]+%?", line) == ["1.2500", "0.5000", "98%", "50%", "12", "2"]
    assert re.findall(r"critic|student|learner|rollout|windows|actors", line) == [
        "critic", "student", "learner", "rollout", "windows", "actors"
    ]  # fmt: skip
    assert "actors" not in line_of(metrics | {"rollout/actors_lost": 0})


def test_the_line_of_stage_grpo_has_the_rewards_and_what_has_none():
    metrics = {"reward/continuity/mean": 0.25, "reward/continuity/std": 0.1, "policy/masked": 0.0}
    assert line_of(metrics) == "continuity 0.250"
    assert re.findall(r"[\d.]+%?", line_of(metrics | {"policy/masked": 0.125})) == ["0.250", "12%"]


def test_the_first_line_of_a_resumed_stage_says_from_where(tmp_path):
    shown = []
    silent = SimpleNamespace(report=lambda metrics: Report([], []))
    log = RunLog(tmp_path, WandbConfig(mode="disabled"), silent, lambda stage, step, steps, line: shown.append(line))
    for stage, step in (("ode", 1), ("ode", 2), ("dmd", 7), ("dmd", 8)):
        log(stage, step, 9, {"student/loss": 0.5})
    log.close()
    assert shown[0] == shown[1] == shown[3] == "student 0.5000"
    assert " 6; " in shown[2] and shown[2].endswith(shown[3])


NEWS = "rollout actor 3 [red] of [1, 2] was lost"
SHOW = f"""
from cluster.runs.display import Display
with Display() as display:
    display("dmd", 1, 3, "critic 1.0")
    display.say("{NEWS}")
    display("dmd", 3, 3, "critic [bold] 0.5")
"""


def test_where_there_is_no_terminal_every_line_is_plain():
    shown = subprocess.run([sys.executable, "-c", SHOW], cwd=settings.ROOT, capture_output=True, text=True, timeout=120)
    assert shown.stdout.splitlines() == [
        "dmd: 1/3  critic 1.0",
        NEWS,
        "dmd: 3/3  critic [bold] 0.5",
    ]


def test_on_a_terminal_news_stand_above_the_bars_word_by_word():
    terminal, inside = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "140"}
    with subprocess.Popen([sys.executable, "-c", SHOW], cwd=settings.ROOT, stdout=inside, env=env) as process:
        os.close(inside)
        shown = b""
        try:
            while part := os.read(terminal, 65536):
                shown += part
        except OSError:  # how Linux says that nobody is left on the other side
            pass
        assert process.wait(timeout=60) == 0
    os.close(terminal)
    text = shown.decode()
    assert NEWS in text
    assert "critic [bold] 0.5" in text and "3/3" in text
    assert text.index(NEWS) < text.rindex("3/3"), "the bar is drawn again below the news"


def test_numbers_by_start_become_bars_that_keep_the_mean_over_starts():
    starts = {start: float(start % 7 + 1) for start in range(0, 3000, 3)}
    heights, edges = bars(starts)
    assert len(heights) == 64 and len(edges) == 65
    for height, low, high in zip(heights, edges, edges[1:], strict=False):
        inside = [value for start, value in starts.items() if low <= start < high or start == high == edges[-1]]
        assert height == pytest.approx(sum(inside) / len(inside))
    few, _ = bars({0: 4, 3: 2, 6: 6, 9: 6, 12: 6})
    assert list(few) == [4, 2, 6, 6, 6]
    assert list(bars({9: 5})[0]) == [5]


def test_numbers_by_role_and_start_are_a_histogram_for_each_role():
    metrics = {"a/loss": 1.0, "buffer/starts": {"critic": {0: 1}, "student": {3: 2}}, "buffer/age_by_start": {0: 0.5}}
    assert by_start(metrics) == {
        "buffer/starts/critic": {0: 1}, "buffer/starts/student": {3: 2}, "buffer/age_by_start": {0: 0.5}
    }  # fmt: skip
    assert by_start({"buffer/starts": {}}) == {}


@pytest.mark.slow
def test_ages_are_those_of_the_books_in_which_every_taken_window_stands(logged):
    run_dir, _ = logged
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    books = [json.loads(line) for line in (run_dir / "windows.jsonl").read_text().splitlines()]
    taken = [window for entry in books for window in entry["windows"]]
    assert len(taken) == lines[-1]["windows/taken"]
    for line, entry in zip(lines, books, strict=True):
        ages = [window["age"] for window in entry["windows"]]
        assert line["buffer/age_mean"] == pytest.approx(sum(ages) / len(ages))
        assert line["buffer/age_max"] == max(ages)
        for start, mean in line["buffer/age_by_start"].items():
            of_start = [window["age"] for window in entry["windows"] if window["start"] == int(start)]
            assert mean == pytest.approx(sum(of_start) / len(of_start))
        assert 0 <= line["learner/busy_share"] <= 1
