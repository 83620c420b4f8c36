"""Keys of groups: which values are refused, and how."""

import pytest

from actors.rollout_config import GroupConfig
from models.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("members", 1),
        ("members", 7),
        ("members", 0),
        ("members", -8),
        ("frames", 0),
        ("frames", -3),
        ("burn_in_frames", -3),
        ("transitions", "two"),
        ("noise", "shared"),
        ("transition_shares", [1.0, -1.0, 1.0]),
        ("transition_shares", [0.0, 0.0, 0.0]),
        ("transition_shares", [float("nan"), 1.0, 1.0]),
    ],
)
def test_a_group_without_meaning_is_refused_under_its_key(name, value):
    with pytest.raises(ConfigError) as refused:
        GroupConfig(**{name: value})
    assert refused.value.key == f"group.{name}" and "\n" not in str(refused.value)


def test_noise_shared_but_for_one_transition_needs_one_transition_that_learns():
    assert GroupConfig(noise="one", transitions="one").noise == "one"
    assert GroupConfig(noise="first", transitions="all").transitions == "all"
    with pytest.raises(ConfigError) as refused:
        GroupConfig(noise="one", transitions="all")
    assert refused.value.key == "group.noise"


def test_shares_of_transitions_make_no_sense_where_all_are_trained():
    with pytest.raises(ConfigError) as refused:
        GroupConfig(transitions="all", noise="first", transition_shares=[1.0, 1.0, 1.0])
    assert refused.value.key == "group.transition_shares"


def test_the_smallest_group_is_two_and_a_burn_in_may_be_none():
    assert (GroupConfig(members=2, burn_in_frames=0).members, GroupConfig(burn_in_frames=0).burn_in_frames) == (2, 0)
