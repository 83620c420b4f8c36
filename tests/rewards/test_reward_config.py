import subprocess
import sys

import pytest

from models.errors import ConfigError
from rewards.reward_config import RewardConfig


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"terms": {"contin": 1.0}}, "terms"),
        ({"terms": {"a..b": 1.0}}, "terms"),
        ({"terms": {"continuity": -1.0}}, "terms"),
        ({"terms": {"continuity": float("nan")}}, "terms"),
        ({"terms": {"continuity": 0.0}}, "terms"),
        ({"terms": {"remote": 1.0}}, "url"),
        ({"window_frames": 0}, "window_frames"),
        ({"flow": "farneback"}, "flow"),
        ({"flow": "raft"}, "raft_weights"),
        ({"raft_size": "huge"}, "raft_size"),
        ({"remote_format": "pickle"}, "remote_format"),
        ({"upsample": 0}, "upsample"),
        ({"top_share": 1.5}, "top_share"),
        ({"motion": "median"}, "motion"),
        ({"smooth_pairs": 2}, "smooth_pairs"),
        ({"smooth_pairs": 0}, "smooth_pairs"),
        ({"finest_scale": 6}, "finest_scale"),
        ({"motion_offset": 0.0}, "motion_offset"),
        ({"jerk_scale": -1.0}, "jerk_scale"),
        ({"retries": -1}, "retries"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"max_failure_rate": 0.0}, "max_failure_rate"),
        ({"url": "ftp://host/score"}, "url"),
        ({"url": "http://:80/score"}, "url"),
        ({"url": "http://host:99999/score"}, "url"),
        ({"url": "http://me:secret@host/score"}, "url"),
        ({"url": "http://"}, "url"),
    ],
)
def test_every_mistake_is_one_line_under_its_key_without_secrets(keys, key):
    with pytest.raises(ConfigError) as refused:
        RewardConfig(**keys)
    assert refused.value.key == f"reward.{key}" and "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_terms_of_one_configuration_are_not_those_of_another():
    RewardConfig().weights["no_cut"] = 1.0
    assert RewardConfig().weights == {"continuity": 1.0}


def test_configuration_is_checked_without_importing_torch():
    code = (
        "import sys; from rewards.reward_config import RewardConfig; RewardConfig(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_no_reward_is_named_it_is_the_composite_and_where_one_is_it_is_that_one():
    assert RewardConfig().weights == {"continuity": 1.0}
    assert RewardConfig(terms={"flow_continuity": 0.5}).weights == {"flow_continuity": 0.5}


def test_a_schedule_multiplies_a_weight_linearly_between_its_rounds():
    config = RewardConfig(terms={"continuity": 2.0, "no_cut": 1.0}, schedule={"continuity": [10.0, 0.0, 20.0, 1.0]})
    assert [config.weights_at(at)["continuity"] for at in (0, 10, 15, 20, 99)] == [0, 0, 1, 2, 2]
    assert {config.weights_at(at)["no_cut"] for at in (0, 15, 99)} == {1.0}


@pytest.mark.parametrize(
    "schedule",
    [{"continuity": []}, {"continuity": [1.0]}, {"continuity": [5.0, 1.0, 5.0, 0.0]}, {"no_cut": [0.0, 1.0]},
     {"continuity": [0.0, -1.0]}, {"continuity": [0.0, float("nan")]}],
)  # fmt: skip
def test_a_schedule_of_another_reward_or_of_rounds_that_do_not_rise_is_refused(schedule):
    with pytest.raises(ConfigError) as error:
        RewardConfig(schedule=schedule)
    assert error.value.key == "reward.schedule"
