"""What stage grpo refuses before anything starts, because it could never be done."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rollout_config import GroupConfig, RolloutConfig
from cluster.config.buffer_config import BufferConfig
from cluster.config.grpo_rules import check_forks
from cluster.config.run_config import Config
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec
from cluster.supply.buffer import WindowBuffer
from learner.policy_config import GrpoConfig
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.records import GRPO, SENTINEL
from rewards.sentinels import SentinelConfig


@dataclass
class Group:
    """As much of a group as the buffer looks at."""

    rollout: int
    role: str
    attempt: int = 0
    index: int = 0
    start: int = 0
    age: int = 0
    weight: float = 1.0


def check(config: Config) -> None:
    replace(config, stage="grpo")


@contextmanager
def refused(*keys: str, fix: str = ""):
    with pytest.raises(ConfigError) as caught:
        yield
    assert caught.value.key in keys and fix in caught.value.fix and "\n" not in str(caught.value)


def goes_on(config: Config) -> bool:
    """Whether a learner that takes two looks, and all rounds behind each, always gets them in the end."""
    buffer = WindowBuffer(config.buffer, config.seed, config.samples_per_update("grpo"))
    dispatcher, first = make_dispatcher(stage_spec("grpo", config)), 0
    rounds = [(SENTINEL, config.sentinel.prompts)] + [(GRPO, config.grpo.groups)] * config.sentinel.every
    for role, n in rounds * 2:
        while buffer.take(role, n, lambda group: 0) is None:
            rollouts = dispatcher.rollouts(first)
            if not buffer.has_room(rollouts):
                return False
            buffer.expect(rollouts)
            first += len(rollouts)
            for rollout in rollouts:
                for plan in rollout.windows:
                    buffer.put(Group(rollout.id, plan.role, index=plan.index))
    return True


@settings(max_examples=100, deadline=None)
@given(
    groups=st.integers(1, 6), batch=st.integers(1, 9), prompts=st.integers(1, 9), every=st.integers(1, 4),
    windows=st.integers(1, 16), max_age=st.integers(1, 4), policy=st.sampled_from(["wait", "drop", "weight"]),
    forks=st.integers(1, 3),
)  # fmt: skip
def test_a_buffer_is_refused_exactly_where_learner_and_actors_would_wait_for_each_other_for_ever(
    groups, batch, prompts, every, windows, max_age, policy, forks
):
    groups *= forks
    config = Config(rollout=RolloutConfig(frames=24, batch=batch), grpo=GrpoConfig(groups=groups, minibatches=1))
    config.sentinel, config.group = SentinelConfig(every=every, prompts=prompts), GroupConfig(forks=forks)
    config.buffer = BufferConfig(windows=windows, max_age=max_age, policy=policy)
    if goes_on(config):
        check(config)
    else:
        with refused("buffer.windows", "buffer.max_age"):
            check(config)


def test_what_is_said_to_be_enough_is_enough():
    config = Config(rollout=RolloutConfig(frames=24, batch=5), grpo=GrpoConfig(groups=4, minibatches=1))
    config.sentinel, config.buffer = SentinelConfig(every=10, prompts=6), BufferConfig(windows=7, max_age=2)
    config.group = GroupConfig(forks=1)
    with refused("buffer.windows", fix="buffer.windows=8"):
        check(config)
    config.buffer = BufferConfig(windows=8, max_age=1)
    with refused("buffer.max_age", fix="buffer.max_age=2"):
        check(config)
    config.buffer = BufferConfig(windows=8, max_age=2)
    check(config)
    assert goes_on(config)


def test_in_a_world_of_image_latents_members_are_judged_from_the_fork_on_or_not_at_all():
    config = Config(student=StudentConfig(model="wan_1_3b", horizon_frames=24), rollout=RolloutConfig(frames=24))
    config.group, config.grpo = GroupConfig(frames=24, forks=1), GrpoConfig(dmd_weight=0.1)
    with refused("window.frames", fix="grpo.dmd_weight=0"):
        check(config)
    config.grpo = GrpoConfig(kl=0.1, dmd_weight=0.0)
    check(config)
    config.grpo, config.window.frames = GrpoConfig(dmd_weight=0.1), 24
    check(config)


def test_distilled_windows_may_begin_before_the_fork_where_inputs_need_no_record_and_frames_are_there():
    config = Config(rollout=RolloutConfig(frames=24))
    config.reward.window_frames, config.window.frames = 3, 12
    config.group, config.grpo = GroupConfig(frames=3, forks=1, burn_in_frames=6), GrpoConfig(dmd_weight=0.1)
    with refused("window.frames", fix="grpo.dmd_noising=fresh"):
        check(config)
    config.grpo.dmd_noising = "fresh"
    with refused("group.burn_in_frames", fix="group.burn_in_frames=9"):
        check(config)
    config.group.burn_in_frames = 9
    check(config)
    assert config.earliest_fork == 9
    config.rollout.frames = 12
    check(config)
    config.rollout.frames = 9
    with refused("group.frames"):
        check_forks(config.student, config.rollout, config.window, config.group, config.earliest_fork)


def test_a_sentinel_that_nobody_knows_is_refused_under_its_own_key():
    config = Config(sentinel=SentinelConfig(metrics=["exposure_drif"]))
    with refused("sentinel.metrics"):
        check(config)
