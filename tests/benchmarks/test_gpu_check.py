"""benchmarks.gpu_check: what it runs, how it stops, and that every line of it runs on a CPU."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import settings
from benchmarks import gpu_check, gpu_machine
from benchmarks.gpu_check import CheckFailed, CheckOptions, Step, disagreement, lines_of, steps_of
from benchmarks.gpu_machine import most_layers
from benchmarks.random_learner import STAGES, configured, updates_of
from benchmarks.update_speed import trained_tokens
from cluster.planning.run_shape import run_shape_of
from models.errors import ConfigError
from models.network_config import CONFIGS
from tests.docs.documented import documented

CPU = torch.device("cpu")


@pytest.fixture
def step(tmp_path, monkeypatch):
    """A function that makes a step of a module with this text."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(gpu_check.settings, "ROOT", tmp_path)

    def make(text, limit_s=60):
        (tmp_path / "benchmarks/mine.py").write_text(text)
        return Step("mine", "mine", [], limit_s)

    return make


def run(step, limit_s=60):
    with open(settings.ROOT / "log", "w+") as log:
        lines = lines_of(step, limit_s, log, os.environ)
        log.seek(0)
        return lines, log.read()


def test_all_steps_together_end_within_eight_minutes_and_each_has_a_limit(tmp_path):
    steps = steps_of(CheckOptions(), tmp_path, compiled=True)
    assert sum(step.limit_s for step in steps[:-1]) <= 420 and min(step.limit_s for step in steps) >= 30
    assert steps[-1].suffix and "compile=true" in steps[-1].keys
    assert steps_of(CheckOptions(), tmp_path, compiled=False) == steps[:-1]
    assert {key for step in steps for key in step.keys if key.startswith("stage=")} == {f"stage={s}" for s in STAGES}
    for step in steps:
        assert (settings.ROOT / f"benchmarks/{step.module}.py").is_file()


def test_what_the_user_can_mend_ends_a_step_with_its_own_line_alone(step):
    with pytest.raises(CheckFailed) as failed:
        run(step("import sys; print('out=x: taken. Fix: change out.', file=sys.stderr); sys.exit(2)"))
    assert str(failed.value) == "step mine: out=x: taken. Fix: change out."


def test_a_later_check_appends_to_the_log_of_the_first(step, tmp_path, monkeypatch):
    made = step('print(\'{"name": "a", "value": 1, "limit": 1}\')')
    monkeypatch.setattr(gpu_check, "steps_of", lambda *_: [made])
    for _ in range(2):
        gpu_check.main(CheckOptions(device="cpu", model="tiny", out=str(tmp_path / "out")))
    assert (tmp_path / "out" / gpu_check.LOG).read_text().count("benchmarks.mine") == 2


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as refused:
        gpu_check.main(CheckOptions(device="cpu", model="tiny", out=str(tmp_path / "file")))
    assert refused.value.key == "out"


def test_some_steps_run_in_their_own_order_and_an_unknown_one_is_refused(tmp_path):
    some = steps_of(CheckOptions(only=["profile", "dmd"]), tmp_path, compiled=False)
    assert [step.name for step in some] == ["dmd", "profile"]
    with pytest.raises(ConfigError) as error:
        steps_of(CheckOptions(only=["speed"]), tmp_path, compiled=False)
    assert error.value.key == "only"


def test_keys_of_size_reach_every_step_that_has_networks(tmp_path):
    for step in steps_of(CheckOptions(model="tiny", layers=2), tmp_path, compiled=False):
        assert {"model=tiny", "layers=2"} <= set(step.keys) or step.name == "tests"


def test_lines_of_a_step_are_read_and_its_errors_are_in_the_log(step):
    text = "import sys\nprint('a note', file=sys.stderr)\nprint('{\"name\": \"a\"}')\nprint('no line')\n"
    lines, log = run(step(text))
    assert lines == [{"name": "a"}] and "a note" in log


@pytest.mark.parametrize(
    ("text", "limit_s", "words"),
    [
        ("raise ValueError('out of memory')", 60, ["status 1", "out of memory"]),
        ("print('nothing')", 60, ["status 0", "no message"]),
        ("import time\nprint(1, flush=True)\ntime.sleep(600)", 1, ["after 1 s"]),
    ],
)
def test_a_step_that_fails_or_hangs_names_itself_its_reason_and_the_log(step, text, limit_s, words):
    with pytest.raises(CheckFailed) as error:
        run(step(text), limit_s)
    said = str(error.value)
    assert "\n" not in said and all(word in said for word in ["step mine", str(settings.ROOT / "log"), *words]), said


def test_a_step_ends_with_this_process(step):
    text = "import os, signal, time\nopen('pid', 'w').write(str(os.getpid()))\nos.kill(os.getppid(), signal.SIGTERM)\n"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error:
        run(step(text + "time.sleep(600)"))
    assert error.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ProcessLookupError):
        os.kill(int((settings.ROOT / "pid").read_text()), 0)


def test_the_most_layers_that_fit_are_found_in_few_dry_runs(monkeypatch):
    monkeypatch.setitem(CONFIGS, "tiny", replace(CONFIGS["tiny"], num_layers=30))
    counted = []
    monkeypatch.setattr(gpu_machine, "largest_update", lambda model: counted.append(1) or CONFIGS[model].num_layers)
    for room, layers in ((29.5, 29), (7, 7), (1.5, 1), (0.5, 1)):
        monkeypatch.setitem(CONFIGS, "tiny", replace(CONFIGS["tiny"], num_layers=30))
        assert most_layers("tiny", room) == layers
    assert len(counted) <= 4 * 5


def test_memory_and_replay_that_contradict_the_plan_are_named_and_others_are_not():
    line = {"name": "dmd_update_memory", "value": 80.0, "limit": 70.0}
    assert disagreement(line) is None and disagreement(line | {"value": 81.0}) is not None
    assert disagreement(line | {"value": 50.0}) is not None
    assert disagreement(line | {"value": 50.0, "config": {"warm_up": False}}) is None
    replay = {"name": "grpo_replay_error", "value": 4e-4, "limit": 5e-4}
    assert disagreement(replay) is None and disagreement(replay | {"value": 6e-4}) is not None
    assert disagreement({"name": "dmd_update_s", "value": 9.0, "limit": 1.0}) is None


@pytest.mark.parametrize("stage", STAGES)
def test_an_update_of_random_networks_can_be_repeated_and_every_part_of_it_runs(stage):
    """In stage grpo the first round would stop itself if the actor's record differed from the replay."""
    update = updates_of(stage, configured(stage, "tiny", compiled=False), CPU)
    first, second = update(), update()
    assert all(torch.tensor(list(metrics.values())).isfinite().all() for metrics in (first, second))
    losses = {"ode": {"ode/loss"}, "dmd": {"critic/loss", "student/loss"}, "grpo": {"critic/loss", "student/loss"}}
    assert losses[stage] <= first.keys()
    assert stage != "grpo" or first["policy/replay_error_max"] < 1e-5


def test_tokens_are_those_of_all_frames_with_gradient():
    wan = {stage: run_shape_of(configured(stage, "wan_1_3b", compiled=False)) for stage in STAGES}
    assert trained_tokens(wan["ode"], "ode") == 21 * 1560
    assert trained_tokens(wan["dmd"], "dmd") == 2 * 21 * 1560
    assert trained_tokens(wan["grpo"], "grpo") == (2 + 2) * 21 * 1560
    more = replace(wan["ode"], ode=replace(wan["ode"].ode, batch_size=3))
    assert trained_tokens(more, "ode") == 3 * 21 * 1560


@pytest.mark.proof
def test_every_step_runs_on_a_cpu_and_leaves_a_file_per_line(tmp_path):
    command = [sys.executable, *documented("python -m benchmarks.gpu_check device=cpu").split()[1:], f"out={tmp_path}"]
    shown = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True, timeout=480)
    assert shown.returncode == 0, shown.stderr
    lines = {line["name"]: line for line in map(json.loads, shown.stdout.splitlines())}
    assert {path.stem for path in tmp_path.glob("*.json")} == lines.keys() >= {
        "machine", "gpu_tests", "rollout_fps", "ode_update_s", "dmd_update_rate", "grpo_update_tokens",
        "dmd_update_memory", "grpo_replay_error", "profile_block", "profile_update",
    }  # fmt: skip
    assert {path.name for path in tmp_path.glob("*.trace.json.gz")} == {"block.trace.json.gz", "update.trace.json.gz"}
    assert all(line["value"] > 0 for line in lines.values() if line["name"] != "grpo_replay_error")
