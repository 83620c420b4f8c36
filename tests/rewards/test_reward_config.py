import re
import subprocess
import sys

import pytest

from rewards.reward_config import RewardConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"terms": {"contin": 1.0}}, "reward.terms=contin: "),
        ({"terms": {"a..b": 1.0}}, "reward.terms=a..b: "),
        ({"terms": {"continuity": -1.0}}, "reward.terms.continuity is -1.0; a weight is at least 0"),
        ({"terms": {"continuity": float("nan")}}, "reward.terms.continuity is nan"),
        ({"terms": {"continuity": 0.0}}, "at least one weight must be above 0"),
        ({"terms": {"remote": 1.0}}, "reward.terms has remote, but reward.url is not set"),
        ({"window_frames": 0}, "reward.window_frames is 0"),
        ({"flow": "farneback"}, 'reward.flow is "farneback"; set it to dis or raft'),
        ({"flow": "raft"}, "reward.raft_weights is not set; give torchvision's weights file (raft_large_C_T_SKHT_V2"),
        ({"raft_size": "huge"}, "set it to large or small"),
        ({"remote_format": "pickle"}, "set it to safetensors or json"),
        ({"upsample": 0}, "reward.upsample is 0"),
        ({"top_share": 1.5}, "reward.top_share is 1.5; it must be above 0 and at most 1"),
        ({"motion": "median"}, 'reward.motion is "median"; set it to fastest or coherent'),
        ({"smooth_pairs": 2}, "reward.smooth_pairs is 2; it must be odd"),
        ({"smooth_pairs": 0}, "reward.smooth_pairs is 0"),
        ({"motion_offset": 0.0}, "reward.motion_offset is 0.0"),
        ({"jerk_scale": -1.0}, "reward.jerk_scale is -1.0"),
        ({"retries": -1}, "reward.retries is -1"),
        ({"timeout_s": float("inf")}, "reward.timeout_s is inf"),
        ({"max_failure_rate": 0.0}, "reward.max_failure_rate is 0.0"),
        ({"url": "ftp://host/score"}, "reward.url is no address"),
        ({"url": "http://:80/score"}, "reward.url is no address"),
        ({"url": "http://host:99999/score"}, "reward.url is no address"),
        ({"url": "http://me:secret@host/score"}, "reward.url has a user name or password in it"),
        ({"url": "http://"}, "is no address; write http://host:port/path"),
    ],
)
def test_every_mistake_is_one_line_with_the_value_and_the_key(keys, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        RewardConfig(**keys)
    assert "\n" not in str(caught.value)


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
