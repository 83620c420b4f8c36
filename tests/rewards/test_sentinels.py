"""When a held-out metric has fallen, and which looks are refused."""

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.sentinels import SentinelConfig, metric_drops

many = settings(max_examples=100, deadline=None)


@many
@given(
    first=st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 9), min_size=1),
    kept=st.lists(st.floats(0, 2), min_size=4, max_size=4),
    tolerance=st.floats(0.01, 0.99),
)
def test_what_has_lost_more_than_the_tolerated_share_of_its_first_value_has_fallen_and_nothing_else(
    first, kept, tolerance
):
    now = {name: value * kept["abcd".index(name)] for name, value in first.items()}
    found = metric_drops(first, now, tolerance)
    for name, value in first.items():
        share = (value - now[name]) / value
        if abs(share - tolerance) > 1e-9:
            assert (name in found) == (share > tolerance)
        if name in found:
            assert found[name] == pytest.approx(share)


def test_a_metric_that_rises_or_stays_has_not_fallen():
    assert metric_drops({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.9}, 0.1) == {}


@pytest.mark.parametrize(("first", "now"), [(math.nan, 0.1), (0.9, math.nan), (0.0, -5.0), (math.nan, math.nan)])
def test_what_could_not_be_measured_or_was_nothing_at_first_has_not_fallen(first, now):
    assert metric_drops({"a": first}, {"a": now}, 0.1) == {}


def test_a_metric_that_is_no_longer_looked_at_has_not_fallen():
    assert metric_drops({"a": 0.9, "b": 0.9}, {"b": 0.1}, 0.1) == pytest.approx({"b": 8 / 9})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("every", "prompts", "frames")),
        *((name, 1.0) for name in ("tolerance", "rate_factor")),
        *((name, -0.1) for name in ("tolerance", "rate_factor")),
        ("tolerance", math.nan),
        ("action", "warn"),
        ("metrics", []),
    ],
)
def test_a_look_without_meaning_is_refused_in_one_line_that_names_it(name, value):
    with pytest.raises(ValueError) as refused:
        SentinelConfig(**{name: value})
    assert f"sentinel.{name}" in str(refused.value) and "\n" not in str(refused.value)
    assert name == "metrics" or str(value) in str(refused.value)


def test_every_key_is_documented():
    assert all(field.metadata["doc"] for field in fields(SentinelConfig))
