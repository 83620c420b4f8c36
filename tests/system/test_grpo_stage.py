"""Stage grpo as a whole: a resumed run equals one that was never stopped."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file

import settings
from cluster.inline import InlineCluster
from cluster.launch import preflight
from cluster.runs.run_folder import RunFolder
from learner import build
from learner.grpo import BurnInTooShort
from models.keys import resumable_keys
from models.records import GRPO
from tests.fakes.cut_off import run
from train import grpo


def train(run_dir, *keys, until=None):
    """Stage grpo in `run_dir`, cut off once round `until` was logged."""
    config = settings.load(["preset=smoke", "cluster=inline", "stage=grpo", f"run_dir={run_dir}", *keys])
    run_dir.mkdir(exist_ok=True)
    metrics = run(grpo, config, until)
    if until is not None:
        return metrics, None
    return metrics, load_file(RunFolder(config.run_dir).stage("grpo").result)


@pytest.mark.parametrize(
    "keys",
    [
        (),
        pytest.param(("grpo.dmd_weight=0", "grpo.kl=0.1", "group.forks=2", "grpo.passes=2"), marks=pytest.mark.proof),
    ],
)
def test_two_rounds_a_checkpoint_and_two_more_equal_four_bit_by_bit(tmp_path, keys):
    whole, student = train(tmp_path / "whole", "checkpoint.every=100", *keys)
    before, _ = train(tmp_path / "cut", "checkpoint.every=2", *keys, until=3)
    after, resumed = train(tmp_path / "cut", "checkpoint.every=2", *keys)
    assert set(before) == {1, 2, 3} and set(after) == {3, 4}
    assert all(torch.equal(student[name], resumed[name]) for name in student)
    timed = ("learner/", "waited/", "weights/")
    for step in (3, 4):
        learnt = [{k: v for k, v in run[step].items() if not k.startswith(timed)} for run in (whole, after)]
        assert learnt[0] == learnt[1]


def test_a_run_that_was_killed_behind_its_last_checkpoint_finishes_when_it_is_run_again(tmp_path):
    keys = ("grpo.steps=2", "checkpoint.every=2", "grpo.dmd_weight=0", "grpo.kl=0.1")
    _, whole = train(tmp_path / "run", *keys)
    folder = RunFolder(tmp_path / "run").stage("grpo")
    folder.result.unlink()  # as if the process had ended before it was written
    again, student = train(tmp_path / "run", *keys)
    assert again == {} and all(torch.equal(whole[name], student[name]) for name in whole)


def test_what_the_guard_of_the_replay_advises_is_accepted_by_the_claimed_folder_and_passes_the_guard(tmp_path):
    keys = [f"run_dir={tmp_path / 'run'}", "preset=smoke", "cluster=inline", "stage=grpo", "grpo.steps=2"]
    keys += ["group.burn_in_frames=0", "grpo.critic_warmup=1", "rollout.frames=48"]

    def start(*more: str) -> dict[int, dict[str, float]]:
        config = settings.load([*keys, *more])
        preflight(config)
        return run(grpo, config, None)

    with pytest.raises(BurnInTooShort) as stopped:
        start("grpo.clip=1e-7")
    advised = re.search(r"Fix: write (\S+=\S+) and", str(stopped.value))[1]
    assert advised.partition("=")[0] in set(resumable_keys(settings.load(keys)))
    assert set(start(advised)) == {1, 2}


def test_the_preset_trains_on_what_it_names_coarse_groups_of_a_block_and_windows_that_begin_before_their_fork(
    tmp_path, monkeypatch
):
    """Two rounds of preset=tiny, with fewer groups: what reaches the learner, and what it makes of it."""
    keys = (
        "grpo.steps=2", "grpo.groups=4", "rollout.batch=2", "rollout.frames=24", "group.forks=2", "group.members=4",
        "grpo.critic_warmup=0", "sentinel.every=4", "sentinel.prompts=2", "sentinel.frames=6",
    )  # fmt: skip
    config = settings.load(
        ["preset=tiny", "cluster=inline", "stage=grpo", "grpo.init=assets/tiny/student_uniform.safetensors",
         f"run_dir={tmp_path}", *keys]
    )  # fmt: skip
    taken, metrics_logged, learners = [], [], []

    class Watched(InlineCluster):
        def take(self, role, n):
            taken.extend(found := super().take(role, n))
            return found

    policy_learner = build.policy_learner

    def made(*arguments, **keywords):
        learners.append(policy_learner(*arguments, **keywords))
        return learners[-1]

    monkeypatch.setattr(build, "policy_learner", made)
    grpo(config, Watched(config.run_dir), lambda stage, step, steps, metrics: metrics_logged.append(metrics))
    groups = [group for group in taken if group.role == GRPO]
    assert len(groups) == 8 and {group.latents.shape[:2] for group in groups} == {(4, 3)}
    assert min(group.start for group in groups) >= config.earliest_fork == 9
    assert learners[0].policy.coarse == config.group.coarse == 0.33
    assert len(metrics_logged) == 2 and all(
        math.isfinite(found["policy/ratio_max"] + found["critic/loss"]) for found in metrics_logged
    )
    assert metrics_logged[0]["policy/replay_error_max"] < config.grpo.clip / 2
