"""Each half of stage dmd alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from itertools import cycle, islice

import pytest
import torch
from safetensors import safe_open

import settings
import train
from cluster.inline import InlineCluster
from cluster.launch import launch, preflight
from cluster.runs.saved_windows import SavedCluster
from cluster.runs.stage_spec import stage_spec
from learner.parallel import collectives
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.records import CRITIC, STUDENT
from models.wan.network import Wan
from tests.fakes.commands import replaced

SMALL = ["preset=smoke", "stage=dmd", "init=assets/tiny/teacher.safetensors", "dmd.steps=2", "debug.count=20"]


def config_of(run_dir, *arguments):
    return settings.load(replaced([*SMALL, "cluster=inline", f"run_dir={run_dir}"], *arguments))


def saved_cluster(config):
    return SavedCluster(config.saved_windows_path, config.window.frames, config.student.frame_shape)


def run(config, loop=train.loop):
    preflight(config)
    return launch(loop, config)


def learner_takes(cluster, config, updates):
    """Windows in the order in which stage dmd takes them."""
    roles = [CRITIC] * config.dmd.critic_updates + [STUDENT]
    return [window for _ in range(updates) for role in roles for window in cluster.take(role, config.dmd.batch_size)]


def assert_same(a, b):
    for field in fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def rolled_out(config, updates):
    """What the learner would get of the weights that stage dmd starts from."""
    cluster = InlineCluster(config.run_dir)
    student = Wan(config.student.wan)
    load_weights(student, config.init_path, "init")
    cluster.begin(stage_spec("dmd", config))
    cluster.publish(student.state_dict, 0)
    return learner_takes(cluster, config, updates)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder with the saved windows of three updates: 20 rounded up to 24."""
    run_dir = tmp_path_factory.mktemp("saved") / "run"
    run(config_of(run_dir, "debug.rollout_only=true"))
    return run_dir


@pytest.mark.slow
def test_the_learner_alone_gets_bit_for_bit_the_windows_that_the_pool_alone_saved(saved, tmp_path):
    config = config_of(saved, "debug.learner_only=true")
    got = []

    def loop(config, cluster, log):
        cluster.begin(stage_spec("dmd", config))
        got.extend(learner_takes(cluster, config, 3))

    run(config, loop)
    (tmp_path / "other").mkdir()
    truth = rolled_out(config_of(tmp_path / "other"), 3)
    assert len(got) == len(truth) == 24
    for a, b in zip(got, truth, strict=True):
        assert_same(a, b)


@pytest.mark.slow
def test_the_learner_alone_runs_the_stage_and_its_first_update_is_that_of_the_whole_run(saved, tmp_path):
    alone = run(config_of(saved, "debug.learner_only=true"))
    whole = run(config_of(tmp_path / "whole"))
    lines = {}
    for name, config in (("alone", alone), ("whole", whole)):
        with open(f"{config.run_dir}/metrics.jsonl") as file:
            lines[name] = [json.loads(line) for line in file]
    assert [line["step"] for line in lines["alone"]] == [1, 2]
    assert lines["alone"][-1]["debug/updates_per_s"] > 0
    for name in ("critic/loss", "student/loss", "student/grad_norm"):
        assert lines["alone"][0][name] == lines["whole"][0][name], name


@pytest.mark.slow
def test_a_half_leaves_the_run_itself_untouched_and_starts_over_each_time(saved):
    for _ in range(2):
        folder = run(config_of(saved, "debug.learner_only=true")).run_dir
        with open(f"{folder}/metrics.jsonl") as file:
            assert len(file.readlines()) == 2
    assert {path.name for path in saved.iterdir()} == {
        ".lock", "config.yaml", "saved_windows", "rollout_only", "learner_only"
    }  # fmt: skip


def test_after_the_last_saved_window_comes_the_first_and_a_checkpoint_goes_on_in_between(saved):
    config = config_of(saved, "debug.learner_only=true")
    cluster = saved_cluster(config)
    cluster.begin(stage_spec("dmd", config))
    once = cluster.take(STUDENT, 6)
    assert len({(window.rollout, window.index) for window in once}) == 6
    cluster.begin(stage_spec("dmd", config))
    cluster.take(STUDENT, 4)
    state = cluster.state()
    again = saved_cluster(config)
    again.begin(stage_spec("dmd", config), state)
    for a, b in zip(again.take(STUDENT, 8), islice(cycle(once), 4, 12), strict=True):
        assert_same(a, b)


def test_the_shares_of_two_ranks_make_up_what_one_rank_gets(saved, monkeypatch):
    config = config_of(saved, "debug.learner_only=true")
    whole = saved_cluster(config)
    whole.begin(stage_spec("dmd", config))
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(collectives, "size", lambda: 2)
        cluster = saved_cluster(config)
        cluster.begin(stage_spec("dmd", config))
        shares.append([cluster.take(CRITIC, 4) for _ in range(3)])
        assert all(len(share) == 2 for share in shares[-1])
    monkeypatch.undo()
    for first, second in zip(*shares, strict=True):
        for a, b in zip([*first, *second], whole.take(CRITIC, 4), strict=True):
            assert_same(a, b)


def test_a_file_of_windows_is_read_without_unpickling_and_names_what_is_in_it(saved):
    paths = sorted((saved / "saved_windows").iterdir())
    assert [path.suffix for path in paths] == [".safetensors"] * 12
    with safe_open(paths[0], framework="pt") as file:
        plains = json.loads(file.metadata()["longtake.windows"])
        assert {plain["role"] for plain in plains} == {CRITIC}
        assert set(file.keys()) == {f"{row}/{name}" for row in (0, 1) for name in ("context", "latents", "noisy")}


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["debug.learner_only=true"], "debug.windows"),
        (["debug.learner_only=true", "debug.rollout_only=true"], "debug."),
        (["debug.rollout_only=true", "stage=[ode,dmd]", "init=null"], "stage"),
        (["debug.rollout_only=true", "debug.count=0"], "debug.count"),
        (["debug.rollout_only=true", "debug.windows=tests"], "debug.windows"),
        (["debug.rollout_only=true", "init=null"], "stage"),
    ],
)
def test_a_half_that_cannot_start_is_refused_by_its_key(tmp_path, arguments, key):
    with pytest.raises(ValueError) as caught:
        preflight(config_of(tmp_path / "run", *arguments))
    assert str(caught.value).startswith(key)
    assert not (tmp_path / "run").exists()


def test_saved_windows_of_one_role_of_another_shape_or_damaged_are_refused_in_one_line(saved, tmp_path):
    first = min(config_of(saved).saved_windows_path.glob("*.safetensors"))
    shutil.copy(first, tmp_path)  # windows of critics alone
    given = ["debug.learner_only=true", f"debug.windows={tmp_path}"]
    with pytest.raises(ConfigError, match=r"^debug\.windows=.*student"):
        preflight(config_of(tmp_path / "run", *given))
    with pytest.raises(ConfigError, match=r"^debug\.windows=.*\[12, .*\[9, "):
        preflight(config_of(tmp_path / "run", *given, "window.frames=9"))
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=rf"^debug\.windows=.*{path.name}"):
        preflight(config_of(tmp_path / "run", *given))


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("sequence", "files"), [(1, 24), (2, 12)])
def test_both_halves_run_on_ray_and_the_learner_on_two_ranks(tmp_path, sequence, files):
    ranks = ["cluster.learner_ranks=2", f"cluster.sequence_ranks={sequence}"]
    command = [sys.executable, "train.py", *SMALL, f"run_dir={tmp_path}/run", *ranks]
    for half in ("rollout_only", "learner_only"):
        shown = subprocess.run(
            [*command, f"debug.{half}=true"], cwd=settings.ROOT, capture_output=True, text=True, timeout=400
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "/s" in shown.stdout
    assert len(list((tmp_path / "run/saved_windows").iterdir())) == files, "a file for each share of a batch"
    lines = (tmp_path / "run/learner_only/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
