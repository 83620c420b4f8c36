"""The loop itself, in one process."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import settings
from cluster.runs.run_folder import RunFolder
from tests.fakes.cut_off import run
from train import dmd, ode


def train(run_dir, *keys, until=None):
    """Stage dmd in `run_dir`, cut off once update `until` was logged."""
    config = settings.load(["preset=smoke", "cluster=inline", "stage=dmd", "dmd.steps=4", f"run_dir={run_dir}", *keys])
    config = replace(config, init=str(settings.ROOT / "assets/tiny/student_uniform.safetensors"))
    run_dir.mkdir(exist_ok=True)
    metrics = run(dmd, config, until)
    if until is not None:
        return metrics
    result = RunFolder(config.run_dir).stage("dmd").result
    critic = {f"critic.{name}": values for name, values in load_file(result.with_name("critic.safetensors")).items()}
    return metrics, load_file(result) | critic


@pytest.mark.parametrize(
    "keys",
    [
        (),
        pytest.param(("buffer.policy=drop", "buffer.max_age=2"), marks=pytest.mark.proof),
        ("rollout.horizon=sampled", "rollout.curriculum=[[0,12],[3,24]]", "window.gradient_step=drawn"),
        pytest.param(("window.law=priority(0.2)", "rollout.frames=48"), marks=pytest.mark.proof),
        pytest.param(("learner.lora_rank=2", "learner.micro_batch=1"), marks=pytest.mark.proof),
    ],
)
def test_two_updates_a_checkpoint_and_two_more_equal_four_bit_by_bit(tmp_path, keys):
    whole, trained = train(tmp_path / "whole", "checkpoint.every=100", *keys)
    before = train(tmp_path / "cut", "checkpoint.every=2", *keys, until=3)
    after, resumed = train(tmp_path / "cut", "checkpoint.every=2", *keys)
    assert set(before) == {1, 2, 3} and set(after) == {3, 4}
    assert trained.keys() == resumed.keys()
    assert all(torch.equal(trained[name], resumed[name]) for name in trained)
    timed = ("learner/", "waited/", "weights/")
    for step in (3, 4):
        learnt = [{k: v for k, v in run[step].items() if not k.startswith(timed)} for run in (whole, after)]
        assert learnt[0] == learnt[1]


def initialise(run_dir, *keys, until=None):
    """Stage ode in `run_dir`, cut off once update `until` was logged: metrics by step, and the student at the end."""
    keys = ("stage=ode", "ode.steps=8", "ode.pairs=16", "ode.first_pairs=12", "rollout.batch=4", *keys)
    config = settings.load(["preset=smoke", "cluster=inline", f"run_dir={run_dir}", *keys])
    run_dir.mkdir(exist_ok=True)
    metrics = run(ode, config, until)
    return metrics, None if until is not None else load_file(RunFolder(config.run_dir).stage("ode").result)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a whole stage ode, and what it learnt."""
    run_dir = tmp_path_factory.mktemp("ode") / "whole"
    return run_dir, initialise(run_dir)


def assert_learnt_alike(one, other):
    (metrics, student), (others, same) = one, other
    assert all(torch.equal(student[name], same[name]) for name in student)
    assert all(metrics[step]["ode/loss"] == others[step]["ode/loss"] for step in others)


@pytest.mark.parametrize(
    ("until", "every", "kept"),
    [
        pytest.param(1, 100, 9, id="before the first checkpoint: what filled a file is kept"),
        pytest.param(5, 2, 15, id="after a checkpoint: what had arrived by then is kept too"),
    ],
)
def test_stage_ode_goes_on_bit_by_bit_and_makes_only_the_trajectories_that_are_missing(
    tmp_path, whole, until, every, kept
):
    _, learnt = whole
    initialise(tmp_path / "cut", f"checkpoint.every={every}", until=until)
    resumed = initialise(tmp_path / "cut", f"checkpoint.every={every}")
    assert_learnt_alike(learnt, resumed)
    assert learnt[0][8]["windows/dispatched"] == 16 and resumed[0][8]["windows/dispatched"] == 16 - kept


def test_stage_ode_learns_the_same_from_the_trajectories_of_another_run_and_makes_none(tmp_path, whole):
    run_dir, learnt = whole
    again = initialise(tmp_path / "again", f"ode.pairs_dir={run_dir}/ode_pairs")
    assert_learnt_alike(learnt, again)
    assert again[0][8]["windows/dispatched"] == 0 and not (tmp_path / "again/ode_pairs").exists()


def test_trajectories_kept_in_half_the_bytes_teach_about_the_same(tmp_path, whole):
    (run_dir, learnt), half = whole, initialise(tmp_path / "half", "ode.dtype=bfloat16")
    sizes = [sum(f.stat().st_size for f in one.glob("ode_pairs/shard_*")) for one in (run_dir, tmp_path / "half")]
    assert sizes[1] < 0.51 * sizes[0]
    assert half[0][1]["ode/loss"] == pytest.approx(learnt[0][1]["ode/loss"], rel=0.01)
