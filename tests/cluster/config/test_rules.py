"""Values and combinations of keys that no run could have: each is refused under its key."""

import pytest

import settings
from models.errors import ConfigError


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("window.frames=120", "window.frames"),
        ("rollout.frames=100", "rollout.frames"),
        ("window.burn_in_frames=4", "window.burn_in_frames"),
        ("student.sink_frames=3", "student.sink_frames"),
        ("buffer.windows=8", "buffer.windows"),
        ("buffer.max_age=1", "buffer.max_age"),
        ("rollout.curriculum=[[0,6]]", "rollout.curriculum"),
        ("rollout.curriculum=[[0,13]]", "rollout.curriculum"),
        ("cluster.learner_ranks=3", "dmd.batch_size"),
        ("learner.micro_batch=5", "learner.micro_batch"),
        ("stage=grpoo", "stage"),
        ("stage=[]", "stage"),
        ("stage=[dmd,ode]", "stage"),
        ("stage=[ode,ode]", "stage"),
        ("stage=3", "stage"),
        ("init=some.safetensors", "init"),
        ("window.frames=24", "window.frames"),
        ("seed=-1", "seed"),
        ("run_dir=''", "run_dir"),
        ("device_name=b300", "device_name"),
    ],
)
def test_a_mistake_is_refused_under_its_key(argument, key):
    with pytest.raises(ConfigError) as refused:
        settings.load([argument])
    assert refused.value.key == key


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["group.frames=108"], "group.frames"),
        (["rollout.curriculum=[[0,12],[9,96]]", "group.frames=24"], "group.frames"),
        (["group.frames=10"], "group.frames"),
        (["group.frames=18", "reward.window_frames=12"], "group.frames"),
        (["sentinel.frames=3"], "sentinel.frames"),
        (["sentinel.frames=50"], "sentinel.frames"),
        (["reward.window_frames=8", "group.frames=24", "sentinel.frames=24"], "reward.window_frames"),
        (["group.burn_in_frames=10"], "group.burn_in_frames"),
        (["reward.terms={smooth:1.0}"], "reward.terms"),
        (["grpo.transition_weights=[1.0,2.0]"], "grpo.transition_weights"),
        (["student.timesteps=[1000]"], "student.timesteps"),
        (["grpo.groups=6", "cluster.learner_ranks=2"], "grpo.groups"),
        (["grpo.groups=4", "grpo.minibatches=2", "learner.micro_batch=3"], "learner.micro_batch"),
        (["grpo.dmd_members=17"], "grpo.dmd_members"),
        (["window.frames=12", "group.frames=9", "grpo.dmd_noising=recorded"], "window.frames"),
        (["sentinel.prompts=33"], "buffer.windows"),
        (["buffer.max_age=1", "sentinel.prompts=16", "grpo.groups=4", "group.forks=1"], "buffer.max_age"),
        (["reward.lead_frames=28"], "reward.lead_frames"),
        (["window.law=prefix(1)", "group.frames=24"], "group.frames"),
        (["sentinel.metrics=[smiles]"], "sentinel.metrics"),
        (["window=priority"], "window.law"),
    ],
)
def test_a_mistake_in_stage_grpo_is_refused_under_its_key(arguments, key):
    with pytest.raises(ConfigError) as refused:
        settings.load(["stage=grpo", "buffer.windows=32", *arguments])
    assert refused.value.key == key


def test_what_only_stage_grpo_needs_is_not_checked_for_other_stages():
    settings.load(["stage=dmd", "group.frames=108", "grpo.transition_weights=[1.0,2.0]", "sentinel.frames=50"])
