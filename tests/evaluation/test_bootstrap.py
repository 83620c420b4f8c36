"""A method leads only where its interval is apart from every other one, and an order needs all neighbours apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.bootstrap import BootstrapInterval, bootstrap_mean, clear_best, ranking

WORSE = {"a": bootstrap_mean([0.9, 0.95, 1.0]), "b": bootstrap_mean([0.3, 0.6]), "c": bootstrap_mean([0.4, 0.5])}


def test_the_leader_is_clear_even_where_the_others_overlap_and_no_order_is_given():
    assert clear_best(WORSE, "high") == "a" and ranking(WORSE, "high") is None
    assert clear_best(WORSE, "low") is None
    assert clear_best({"b": WORSE["b"], "a": WORSE["a"]}, "high") == "a"


@pytest.mark.parametrize("best", ["", "high", "low"])
def test_one_method_or_one_video_leads_nothing(best):
    assert clear_best({"a": WORSE["a"]}, best) is None
    assert clear_best({"a": bootstrap_mean([1.0]), "b": bootstrap_mean([0.0])}, best) is None
    assert clear_best({"a": bootstrap_mean([None, None]), "b": WORSE["b"]}, best) is None


bounds = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted)


@given(st.lists(bounds, min_size=2, max_size=5), st.sampled_from(["low", "high"]))
def test_the_first_of_an_order_is_the_leader(ends, best):
    intervals = {str(i): BootstrapInterval(mean, low, high, 3, 0) for i, (low, mean, high) in enumerate(ends)}
    order = ranking(intervals, best)
    if order is not None:
        assert clear_best(intervals, best) == order[0]
