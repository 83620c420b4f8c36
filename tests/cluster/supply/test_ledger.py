"""When a run stops because it cannot see its rewards."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.supply.ledger import GROUPS_AT_LEAST, NONE_AT_LEAST, SCORES_AT_LEAST, RewardFails, ScoreLedger
from rewards.reward_config import RewardConfig

many = settings(max_examples=60, deadline=None)


def scores(failed: int, asked: int) -> dict[str, list[list[float]]]:
    return dict(judge=[[math.nan] if i < failed else [0.0] for i in range(asked)])


@many
@given(st.lists(st.integers(0, 8), min_size=1, max_size=20), st.floats(0.05, 0.95))
def test_a_run_stops_at_the_first_group_with_which_too_many_of_enough_scores_have_failed(failures, allowed):
    book = ScoreLedger(RewardConfig(max_failure_rate=allowed))
    for groups, failed in enumerate(failures, start=1):
        share, asked = sum(failures[:groups]) / (8 * groups), 8 * groups
        dead = share == 1 and asked >= NONE_AT_LEAST and groups >= GROUPS_AT_LEAST
        if (dead or asked >= SCORES_AT_LEAST) and share > allowed:
            with pytest.raises(RewardFails, match=rf"judge .*\b{asked}\b"):
                book.note(scores(failed, 8))
            return
        book.note(scores(failed, 8))
        assert book.metrics() == {"reward/judge/failed": sum(failures[:groups])}


def test_a_score_of_nought_is_no_failure():
    book = ScoreLedger(RewardConfig(max_failure_rate=0.01))
    book.note(dict(judge=[[0.0] * 100]))
    assert book.metrics() == {"reward/judge/failed": 0}


def test_a_group_that_nobody_could_score_ends_no_run_and_a_third_one_does():
    book = ScoreLedger(RewardConfig())
    for groups in (1, 2):
        book.note(scores(16, 16))
        assert book.metrics() == {"reward/judge/failed": 16 * groups}
        book = ScoreLedger(RewardConfig(), book.state())
    with pytest.raises(RewardFails, match=r"judge .*100% .*\b48\b"):
        book.note(scores(16, 16))


def test_a_reward_that_is_only_logged_may_fail_for_ever():
    book = ScoreLedger(RewardConfig(terms={"no_cut": 0.0, "continuity": 1.0}))
    for _ in range(20):
        book.note(dict(no_cut=[[math.nan]] * 16))
    assert book.metrics() == {"reward/no_cut/failed": 320}


def test_each_reward_is_counted_apart():
    book = ScoreLedger(RewardConfig())
    book.note(dict(one=[[0.0, math.nan]], other=[[0.0, 1.0]]))
    assert book.metrics() == {"reward/one/failed": 1, "reward/other/failed": 0}
    with pytest.raises(RewardFails, match=r"\bother\b"):
        book.note(dict(other=[[math.nan] * 100]))


def test_what_was_counted_survives_a_checkpoint():
    book = ScoreLedger(RewardConfig())
    book.note(scores(9, 45))
    again = ScoreLedger(RewardConfig(), book.state())
    assert again.metrics() == book.metrics() and again.state() == book.state()
    with pytest.raises(RewardFails, match=r"28% .*\b50\b"):
        again.note(scores(5, 5))


def test_a_reward_that_dies_late_stops_the_run_as_soon_as_one_that_never_worked():
    book = ScoreLedger(RewardConfig(max_failure_rate=0.2))
    for _ in range(1000):
        book.note(scores(0, 8))
    with pytest.raises(RewardFails, match=r"\b200\b"):
        for _ in range(6):
            book.note(scores(8, 8))
