"""Read a judge's answer strictly: a score, a verdict, or the reason why there is none. Nothing is guessed."""

import json
import re
from dataclasses import dataclass
from typing import Any

from evaluation.judging.rubric import SCORE

HIGHEST = 5
"""Best score; 0 is the worst."""
FIRST, SECOND, TIE = "first", "second", "tie"
"""Verdicts on a pair of videos."""
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


@dataclass(frozen=True)
class JudgeAnswer:
    """Holds what an answer says; exactly one of `value` and `missing` is None."""

    value: int | str | None = None
    """Score from 0 to HIGHEST, or verdict."""
    missing: str | None = None
    """Reason why there is no value."""
    model: str | None = None
    """Model that the server reports."""
    revision: str | None = None
    """`system_fingerprint` of the server, where it reports one."""
    input_tokens: int | None = None
    output_tokens: int | None = None


def answer_schema(form: str) -> dict[str, Any]:
    """Return the JSON schema of an answer's content: reasoning first, so that the score follows from it."""
    values = {"type": "integer", "minimum": 0, "maximum": HIGHEST}
    value = values if form == SCORE else {"type": "string", "enum": [FIRST, SECOND, TIE]}
    return {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, form: value},
        "required": ["reasoning", form],
        "additionalProperties": False,
    }


def read_answer(raw: str, form: str) -> JudgeAnswer:
    """Read the body of a chat completion whose content has the form SCORE or VERDICT."""
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content = message.get("content")
    except (ValueError, RecursionError):
        return JudgeAnswer(missing="the answer is no JSON")
    except (KeyError, IndexError, TypeError, AttributeError):
        return JudgeAnswer(missing="the answer has no choices[0].message")
    value, missing = None, None
    if finish == "content_filter" or message.get("refusal"):
        missing = "the endpoint refused to judge"
    elif not isinstance(content, str):
        missing = "the answer has no content"
    else:
        try:
            value = content_value(content, form)
        except ValueError as error:
            missing = f"{error}{', cut off at judge.most_output_tokens' if finish == 'length' else ''}"
    model, revision = (
        part if isinstance(part := body.get(name), str) else None for name in ("model", "system_fingerprint")
    )
    return JudgeAnswer(value, missing, model, revision, *_tokens(body.get("usage")))


def content_value(content: str, form: str) -> int | str:
    """Read the score or verdict of {"reasoning": ..., FORM: ...}, bare or in one code fence.

    Raises ValueError where fields are missing, repeated, others or in another order, the reasoning is empty, or the
    value is none of the scale.
    """
    text = content.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        fields = json.loads(fenced[1] if fenced else text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise ValueError("the content is no JSON") from error
    if not isinstance(fields, _Pairs) or [name for name, _ in fields] != ["reasoning", form]:
        raise ValueError(f"the content's fields are not reasoning, then {form}")
    (_, reasoning), (_, value) = fields
    if not isinstance(reasoning, str) or not reasoning.strip():
        raise ValueError("the content has no reasoning")
    if form == SCORE:
        if type(value) is not int or not 0 <= value <= HIGHEST:
            raise ValueError(f"the score is no whole number from 0 to {HIGHEST}")
    elif value not in (FIRST, SECOND, TIE):
        raise ValueError(f"the verdict is none of {FIRST}, {SECOND}, {TIE}")
    return value


class _Pairs(list):
    """The fields of a JSON object in their order, repeated names included."""


def _tokens(usage: Any) -> tuple[int | None, int | None]:
    """Read input and output tokens; None where the server does not count them."""
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    known = all(type(count) is int and count >= 0 for count in counts)
    return (counts[0], counts[1]) if known else (None, None)
