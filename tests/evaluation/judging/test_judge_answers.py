"""A judge's answer is a score of the scale behind its reasoning, or it is missing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.judging.judge_answers import content_value, read_answer
from evaluation.judging.rubric import SCORE, VERDICT
from tests.fakes.judge_replies import completion, scored, verdict


def read(content: object, form: str = SCORE):
    return read_answer(json.dumps(content), form)


@pytest.mark.parametrize("score", range(6))
def test_a_score_of_the_scale_is_read(score):
    answer = read(scored(score))
    assert (answer.value, answer.missing, answer.model) == (score, None, "judge-2026")
    assert (answer.input_tokens, answer.output_tokens) == (1000, 100)


@pytest.mark.parametrize("name", ["first", "second", "tie"])
def test_a_verdict_is_read(name):
    assert read(verdict(name), VERDICT).value == name


def test_a_code_fence_around_the_whole_content_is_no_fault():
    assert content_value('```json\n{"reasoning": "r", "score": 3}\n```\n', SCORE) == 3


@pytest.mark.parametrize("score", [-1, 6, 100, 3.0, 3.5, True, "4", None, [4], {"score": 4}, float("nan"), 10**30])
def test_a_score_off_the_scale_is_missing(score):
    answer = read(scored(score))
    assert answer.value is None and answer.missing


@pytest.mark.parametrize(
    "content",
    [
        "", "4", "null", "Score: 4", '{"reasoning": "r", "score": 4', '{"score": 4}', '{"reasoning": "r"}',
        '{"reasoning": "", "score": 4}', '{"reasoning": "  ", "score": 4}', '{"reasoning": 3, "score": 4}',
        '{"score": 4, "reasoning": "r"}', '{"reasoning": "r", "score": 4, "score": 0}',
        '{"reasoning": "r", "score": 4, "mood": 1}', '[{"reasoning": "r", "score": 4}]',
        '[["reasoning", "r"], ["score", 4]]', '{"reasoning": "r", "score": 4} {"reasoning": "r", "score": 5}',
        "[" * 100_000, None, 4, ["text"],
    ],
)  # fmt: skip
def test_content_of_another_form_is_missing(content):
    answer = read(completion(content))
    assert answer.value is None and answer.missing


@pytest.mark.parametrize(
    "raw",
    ["", "<html>", "null", "[]", "{}", '"choices"', '{"choices": []}', '{"choices": [3]}', '{"choices": [{}]}',
     '{"choices": [{"message": null}]}', '{"choices": {"0": 1}}', "[" * 100_000],
)  # fmt: skip
def test_a_body_that_is_no_completion_is_missing(raw):
    answer = read_answer(raw, SCORE)
    assert answer.value is None and answer.missing and answer.input_tokens is None


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None}, "finish_reason": "content_filter"},
        {"message": {"content": '{"reasoning": "r", "score": 4}'}, "finish_reason": "content_filter"},
        {"message": {"content": '{"reasoning": "r", "score": 4}', "refusal": "I cannot judge this."}},
        {"message": {"content": None, "refusal": "I cannot judge this."}},
    ],
)
def test_a_refusal_is_missing_and_still_has_its_tokens(choice):
    answer = read(completion(None, choices=[choice]))
    assert answer.value is None and answer.missing and answer.input_tokens == 1000


@pytest.mark.parametrize("usage", [None, 3, {}, {"prompt_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": 2}])
def test_tokens_that_the_server_does_not_count_are_unknown(usage):
    answer = read(scored(2) | {"usage": usage})
    assert (answer.value, answer.input_tokens, answer.output_tokens) == (2, None, None)


@given(st.text(max_size=40) | st.binary(max_size=40).map(repr))
def test_no_text_whatever_becomes_a_score(text):
    answer = read(completion(text))
    assert answer.value is None and answer.missing


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_other_json_becomes_a_score(content):
    answer = read(completion(json.dumps(content)))
    assert (answer.value is None) != (answer.missing is None)
    assert answer.value is None or list(content) == ["reasoning", "score"]
