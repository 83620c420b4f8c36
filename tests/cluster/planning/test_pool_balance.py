import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.run_config import Config
from cluster.planning.pool_balance import made_share, pool_size
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec

seconds = st.floats(0.1, 1000)
counts = st.integers(1, 64)


@given(seconds, counts, seconds, counts)
def test_the_pool_is_the_smallest_that_makes_windows_as_fast_as_the_learner_takes_them(
    rollout_s, made, update_s, taken
):
    actors = pool_size(rollout_s, made, update_s, taken)
    needed, each = taken / update_s, made / rollout_s
    assert actors * each >= needed * (1 - 1e-6)
    assert actors == 1 or (actors - 1) * each < needed * (1 + 1e-6)


def test_a_whole_ratio_is_not_rounded_up():
    assert pool_size(rollout_s=94.0, rollout_windows=6, update_s=94.0 / 17, update_windows=6) == 17
    assert pool_size(rollout_s=0.3, rollout_windows=1, update_s=0.1, update_windows=1) == 3


@pytest.mark.parametrize("name", ["rollout_s", "rollout_windows", "update_s", "update_windows"])
def test_a_pool_is_not_sized_by_nothing(name):
    given = {"rollout_s": 1.0, "rollout_windows": 1, "update_s": 1.0, "update_windows": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        pool_size(**given)


def test_the_share_that_an_actor_makes_is_the_expected_end_of_the_last_of_its_uniform_windows():
    config = Config()
    config.rollout.batch, config.rollout.windows = 2, 3
    positions = (config.rollout.frames - config.window.frames) // config.student.block_frames + 1
    draws = config.rollout.batch * config.rollout.windows
    # The mean of the largest of `draws` even draws from 0 .. positions - 1, summed over its tail.
    last = sum(1 - (p / positions) ** draws for p in range(1, positions))
    frames = last * config.student.block_frames + config.window.frames
    assert made_share(make_dispatcher(stage_spec("dmd", config)), config.rollout, config.window) == pytest.approx(
        frames / config.rollout.frames, rel=0.02
    )


def test_windows_of_the_first_horizon_only_make_short_rollouts():
    config = Config()
    config.window.law = "prefix(1)"
    assert (
        made_share(make_dispatcher(stage_spec("dmd", config)), config.rollout, config.window)
        == config.window.frames / config.rollout.frames
    )
