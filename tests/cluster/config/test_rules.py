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
        ("cluster.sequence_ranks=2", "cluster.sequence_ranks"),
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
        ("student.horizon_frames=10", "student.horizon_frames"),
        ("student.timesteps=[750,1000]", "student.timesteps"),
        ("dmd.noising=pink", "dmd.noising"),
        ("dmd.critic_updates=0", "dmd.critic_updates"),
        ("dmd.beta1=1.5", "dmd.optimizer.beta1"),
        ("dmd.ema_decay=2", "dmd.ema_decay"),
        ("pretrain.prompt_drop=7", "pretrain.prompt_drop"),
        ("dmd.batch_size=0", "dmd.batch_size"),
        ("dmd.steps=0", "dmd.steps"),
        ("ode.pairs=0", "ode.pairs"),
        ("buffer.policy=keep", "buffer.policy"),
        ("buffer.bad_share=1", "buffer.bad_share"),
        ("rollout.horizon=long", "rollout.horizon"),
        ("cluster.rank_gpus=0.5", "cluster.rank_gpus"),
        ("cluster.timeout_s=inf", "cluster.timeout_s"),
        ("cluster.slow_factor=nan", "cluster.slow_factor"),
        ("cluster.weight_transport=nccl", "cluster.weight_transport"),
        ("learner.dtype=float16", "learner.dtype"),
        ("checkpoint.keep=0", "checkpoint.keep"),
        ("dmd.student_lr=inf", "dmd.optimizer.lr"),
        ("cluster.rollout_actors=0", "cluster.rollout_actors"),
        ("wandb.mode=on", "wandb.mode"),
        ("evaluation.every=-1", "evaluation.every"),
        ("evaluation.prompts=0", "evaluation.prompts"),
        ("evaluation.timeout_s=0", "evaluation.timeout_s"),
        ("evaluation.patience=3", "evaluation.patience"),
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
        (["group.members=1"], "group.members"),
        (["reward.terms={continuity:-1}"], "reward.terms"),
        (["group.noise=one", "group.transitions=all"], "group.noise"),
        (["group.noise=shared"], "group.noise"),
        (["group.transitions=two"], "group.transitions"),
        (["grpo.groups=5"], "grpo.groups"),
        (["grpo.dmd_noising=new"], "grpo.dmd_noising"),
        (["reward.finest_scale=6"], "reward.finest_scale"),
        (["reward.flow=raft"], "reward.raft_weights"),
        (["sentinel.action=warn"], "sentinel.action"),
    ],
)
def test_a_mistake_in_stage_grpo_is_refused_under_its_key(arguments, key):
    with pytest.raises(ConfigError) as refused:
        settings.load(["stage=grpo", "buffer.windows=32", *arguments])
    assert refused.value.key == key


@pytest.mark.parametrize(
    ("ranks", "sequence", "teacher", "refused_by"),
    [
        (8, 2, "tiny", None),
        (8, 4, "tiny", None),
        (6, 4, "tiny", "cluster.learner_ranks=6"),
        (8, 4, "tiny_wide", "6 heads of teacher_model=tiny_wide"),
        (8, 8, "tiny", "4 heads of student.model=tiny"),
        (6, 3, "tiny_wide", "4 heads of student.model=tiny"),
    ],
)
def test_sequence_ranks_divide_the_ranks_and_the_heads_of_both_networks(ranks, sequence, teacher, refused_by):
    keys = [f"cluster.learner_ranks={ranks}", f"teacher_model={teacher}", "base=x", "dmd.batch_size=24"]
    split = [*keys, f"cluster.sequence_ranks={sequence}", "ode.batch_size=24"]
    if refused_by is None:
        assert settings.load(split).cluster.data_ranks == ranks // sequence
        return
    with pytest.raises(ConfigError) as refused:
        settings.load(split)
    assert (refused.value.key, refused.value.value) == ("cluster.sequence_ranks", sequence)
    assert refused_by in refused.value.problem
    settings.load([*keys, f"cluster.sequence_ranks={refused.value.fix.split()[-1]}", "ode.batch_size=24"])


def test_micro_batches_are_of_the_windows_that_a_group_of_sequence_ranks_shares():
    keys = ["stage=dmd", "init=x", "cluster.learner_ranks=4", "dmd.batch_size=8", "learner.micro_batch=4"]
    settings.load([*keys, "cluster.sequence_ranks=2"])
    with pytest.raises(ConfigError) as refused:
        settings.load(keys)
    assert refused.value.key == "learner.micro_batch"


def test_what_only_stage_grpo_needs_is_not_checked_for_other_stages():
    settings.load(["stage=dmd", "group.frames=108", "grpo.transition_weights=[1.0,2.0]", "sentinel.frames=50"])


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (
            ["evaluation.frames=40"],
            "evaluation.frames",
        ),  # whole blocks and no whole horizons, which the tiny judge needs
        (["preset=wan_1_3b", "teacher=x", "prompts=x.txt", "evaluation.frames=40"], "evaluation.frames"),
        (["stage=grpo", "grpo.init=x", "prompts=x.txt", "sentinel.prompts=3"], "evaluation.prompts"),
    ],
)
def test_evaluations_that_no_video_could_serve_are_refused_only_where_there_are_evaluations(arguments, key):
    settings.load(arguments)
    for stages in ("teacher", "ode"):
        if "stage=grpo" not in arguments:
            kept = [one for one in arguments if stages != "teacher" or not one.startswith("teacher=")]
            settings.load([*kept, f"stage={stages}", "evaluation.every=5"])
    with pytest.raises(ConfigError) as refused:
        settings.load([*arguments, "evaluation.every=5"])
    assert refused.value.key == key
