"""Declared ranges and choices of keys: refused in one form, under the dotted key."""

import math
from dataclasses import dataclass

import pytest

from models.errors import ConfigError
from models.keys import KeyGroup, key, part, resumable_keys


@dataclass
class Inner:
    rate: float = key(1.0, "a rate", gt=0)


@dataclass
class Outer(KeyGroup, group="outer"):
    count: int = key(1, "a count", ge=1)
    share: float | None = key(None, "a share", ge=0, lt=1)
    kind: str = key("plain", "a kind", choices=("plain", "fancy"))
    numbers: list[float] = key([], "numbers", ge=0)
    weights: dict[str, float] = key({}, "weights", ge=0)
    free: float = key(math.inf, "any number", gt=0, le=math.inf, resumable=True)
    plain: float = key(0.0, "a number without a range")
    pairs: list[list[int]] = key([], "whole numbers without a range")
    inner: Inner = part(Inner, rate=2.0)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"count": 0}, "count"),
        ({"count": 2**40}, "count"),
        ({"share": 1.0}, "share"),
        ({"share": math.nan}, "share"),
        ({"kind": "fanzy"}, "kind"),
        ({"numbers": [1.0, -1.0]}, "numbers"),
        ({"weights": {"a": math.inf}}, "weights"),
        ({"inner": Inner(rate=0.0)}, "inner.rate"),
        ({"inner": Inner(rate=1e300)}, "inner.rate"),
        ({"free": 1e30}, "free"),
        ({"free": -math.inf}, "free"),
        ({"free": math.nan}, "free"),
        ({"plain": math.inf}, "plain"),
        ({"plain": math.nan}, "plain"),
        ({"plain": -1e10}, "plain"),
        ({"pairs": [[0, 10**30]]}, "pairs"),
        ({"pairs": [[-(2**63), 0]]}, "pairs"),
    ],
)
def test_a_value_outside_its_range_is_refused_under_its_dotted_key(values, name):
    with pytest.raises(ConfigError) as refused:
        Outer(**values)
    assert refused.value.key == f"outer.{name}"


def test_a_value_that_is_nearly_a_choice_is_answered_with_that_choice():
    with pytest.raises(ConfigError) as refused:
        Outer(kind="fanzy")
    assert "fancy" in refused.value.fix


def test_values_at_the_bounds_and_absent_ones_are_taken_and_parts_have_defaults_of_their_own():
    made = Outer(count=1, share=0.0, numbers=[0.0], plain=-1e9, pairs=[[2**31 - 1]])
    assert (made.share, made.inner.rate, made.free) == (0.0, 2.0, math.inf)


def test_lists_and_mappings_are_not_shared_between_instances():
    Outer().weights["a"] = 1.0
    assert Outer().weights == {}


def test_what_a_resumed_run_may_change_stands_on_the_key():
    assert list(resumable_keys(Outer())) == ["free"]


@pytest.mark.parametrize(("written", "meant"), [("gpu", "cuda"), ("GPU", "cuda"), ("cude", "cuda"), ("cup", "cpu")])
def test_the_device_that_was_meant_is_suggested(written, meant):
    @dataclass
    class Placed(KeyGroup):
        device: str = key("cpu", "a device", choices=("cuda", "cpu"))

    with pytest.raises(ConfigError) as refused:
        Placed(device=written)
    assert refused.value.fix == f"write {meant}"
