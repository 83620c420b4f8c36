"""The loop itself, in one process."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import settings
from cluster.run_folder import RunFolder
from tests.cut_off import run
from train import dmd


def train(run_dir, *keys, until=None):
    """Stage dmd in `run_dir`, cut off once update `until` was logged."""
    config = settings.load(["preset=smoke", "cluster=inline", "stage=dmd", "dmd.steps=8", f"run_dir={run_dir}", *keys])
    config = replace(config, init=str(settings.ROOT / "assets/tiny/student_uniform.safetensors"))
    run_dir.mkdir(exist_ok=True)
    metrics = run(dmd, config, until)
    if until is not None:
        return metrics
    result = RunFolder(config).stage("dmd").result
    critic = {f"critic.{name}": values for name, values in load_file(result.with_name("critic.safetensors")).items()}
    return metrics, load_file(result) | critic


@pytest.mark.parametrize(
    "keys",
    [
        (),
        pytest.param(("buffer.policy=drop", "buffer.max_age=2"), marks=pytest.mark.proof),
        ("rollout.horizon=sampled", "rollout.curriculum=[[0,12],[3,24]]", "window.gradient_step=drawn"),
        pytest.param(("learner.lora_rank=2", "learner.micro_batch=1"), marks=pytest.mark.proof),
    ],
)
def test_four_updates_a_checkpoint_and_four_more_equal_eight_bit_by_bit(tmp_path, keys):
    whole, trained = train(tmp_path / "whole", "checkpoint.every=100", *keys)
    before = train(tmp_path / "cut", "checkpoint.every=4", *keys, until=5)
    after, resumed = train(tmp_path / "cut", "checkpoint.every=4", *keys)
    assert set(before) == {1, 2, 3, 4, 5} and set(after) == {5, 6, 7, 8}
    assert trained.keys() == resumed.keys()
    assert all(torch.equal(trained[name], resumed[name]) for name in trained)
    timed = ("learner/", "waited/", "weights/")
    for step in range(5, 9):
        learnt = [{k: v for k, v in run[step].items() if not k.startswith(timed)} for run in (whole, after)]
        assert learnt[0] == learnt[1]
