"""Limits of requests and of money hold whatever the endpoint does, over all runs of a transcript file."""

import pytest

from evaluation.judging.judge_answers import JudgeAnswer
from evaluation.judging.judge_budget import BudgetSpent, JudgeBudget
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.video_judge import judge_videos
from tests.fakes.endpoint import served
from tests.fakes.judge_replies import completion, films, lines_of, scored

PRICES = {"dollars_per_million_input": 2.0, "dollars_per_million_output": 10.0, "most_output_tokens": 100}
COST = 1000 * 2e-6 + 100 * 10e-6


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return films(tmp_path_factory.mktemp("films"), 6)


def counted(bad=None):
    """An endpoint, and the list of its requests."""
    requests = []

    def answer(body, headers):
        requests.append(body)
        return bad or (200, scored(5))

    return answer, requests


@pytest.mark.parametrize("parallel", [1, 8])
@pytest.mark.parametrize("limit", [0, 1, 4, 6])
def test_no_more_requests_than_allowed_and_one_line_about_the_rest(videos, tmp_path, parallel, limit):
    answer, requests = counted()
    lines = []
    with served(answer) as url:
        config = JudgeConfig(url=url, most_calls=limit, parallel=parallel)
        verdicts = judge_videos(videos, config, tmp_path / "j", lines.append)
    scores = [verdict.score for verdict in verdicts.values()]
    assert len(requests) == scores.count(100.0) == limit and scores.count(None) == 6 - limit
    assert all(verdict.missing for verdict in verdicts.values() if verdict.score is None)
    about = [line for line in lines if "judge.most_calls" in line]
    assert len(about) == (limit < 6) and all(f"{6 - limit} of 6" in line for line in about)


def test_further_tries_are_requests_too(videos, tmp_path):
    answer, requests = counted((500, {}))
    with served(answer) as url:
        config = JudgeConfig(url=url, most_calls=3, parallel=1, retries=1)
        verdicts = judge_videos(videos, config, tmp_path / "j")
    assert len(requests) == 3 == sum(line["tries"] for line in lines_of(tmp_path / "j"))
    assert all(verdict.score is None for verdict in verdicts.values())


def test_runs_of_one_transcript_file_share_the_limit(videos, tmp_path):
    answer, requests = counted()
    with served(answer) as url:
        for limit, requested in ((2, 2), (2, 2), (5, 5), (3, 5)):
            judge_videos(videos, JudgeConfig(url=url, most_calls=limit), tmp_path / "j")
            assert len(requests) == requested


@pytest.mark.parametrize("parallel", [1, 8])
def test_money_is_never_exceeded_and_counted_to_the_cent(videos, tmp_path, parallel):
    answer, requests = counted()
    with served(answer) as url:
        config = JudgeConfig(url=url, most_dollars=4.5 * COST, parallel=parallel, **PRICES)
        verdicts = judge_videos(videos, config, tmp_path / "j")
    spent = sum(line["dollars"] for line in lines_of(tmp_path / "j"))
    assert spent == pytest.approx(len(requests) * COST) and 0 < spent <= 4.5 * COST
    assert [verdict.score for verdict in verdicts.values()].count(None) == 6 - len(requests)
    assert parallel > 1 or len(requests) == 4


def test_an_answer_that_counts_no_tokens_costs_what_it_may_have(videos, tmp_path):
    answer, requests = counted((200, completion("no score", usage=None)))
    with served(answer) as url:
        config = JudgeConfig(url=url, most_dollars=0.01, parallel=1, **PRICES)
        judge_videos(videos, config, tmp_path / "j")
    spent = [line["dollars"] for line in lines_of(tmp_path / "j")]
    assert len(spent) == len(requests) > 0 and sum(spent) <= 0.01 and min(spent) >= 100 * 10e-6


def test_without_prices_no_cost_is_stated(videos, tmp_path):
    answer, _ = counted()
    with served(answer) as url:
        judge_videos(videos[:1], JudgeConfig(url=url), tmp_path / "j")
    (line,) = lines_of(tmp_path / "j")
    assert line["dollars"] is None and line["input_tokens"] == 1000


def test_the_reservation_learns_how_many_tokens_a_picture_takes():
    budget = JudgeBudget(JudgeConfig(most_dollars=1.0, **PRICES), 0, 0.0)
    first = budget.reserve(1000)
    budget.release(first)
    answer = JudgeAnswer(4, None, input_tokens=3000, output_tokens=0)
    assert budget.charge(answer, 1000, first) == pytest.approx(3000 * 2e-6)
    assert budget.reserve(1000) == pytest.approx(3000 * 2e-6 + 100 * 10e-6)


def test_requests_in_flight_hold_their_money():
    budget = JudgeBudget(JudgeConfig(most_dollars=2.5 * COST, **PRICES), 0, 0.0)
    held = [budget.reserve(1000), budget.reserve(1000)]
    with pytest.raises(BudgetSpent):
        budget.reserve(1000)
    budget.release(held.pop())
    budget.reserve(1000)
