"""Keys of groups: which values are refused, and how."""

from dataclasses import fields

import pytest

from actors.rollout_config import GroupConfig


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
def test_a_group_without_meaning_is_refused_in_one_line_that_names_it(name, value):
    with pytest.raises(ValueError) as refused:
        GroupConfig(**{name: value})
    assert f"group.{name}" in str(refused.value) and str(value) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_noise_shared_but_for_one_transition_needs_one_transition_that_learns():
    assert GroupConfig(noise="one", transitions="one").noise == "one"
    assert GroupConfig(noise="first", transitions="all").transitions == "all"
    with pytest.raises(ValueError, match=r"group\.noise=one.*set group\.transitions=one, or noise=first"):
        GroupConfig(noise="one", transitions="all")


def test_shares_of_transitions_make_no_sense_where_all_are_trained():
    with pytest.raises(ValueError, match=r"group\.transition_shares is .*group\.transitions=all draws none"):
        GroupConfig(transitions="all", noise="first", transition_shares=[1.0, 1.0, 1.0])


def test_the_smallest_group_is_two_and_a_burn_in_may_be_none():
    assert (GroupConfig(members=2, burn_in_frames=0).members, GroupConfig(burn_in_frames=0).burn_in_frames) == (2, 0)


def test_every_key_is_documented():
    assert all(field.metadata["doc"] for field in fields(GroupConfig))
