"""Send one question to the judge's endpoint and return its answer as it came, or why there is none."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import aiohttp

from evaluation.judging.frame_pictures import FramePicture
from evaluation.judging.judge_answers import answer_schema
from evaluation.judging.judge_budget import BudgetSpent
from evaluation.judging.judge_config import JUDGE_KEY, JudgeConfig
from evaluation.judging.rubric import Rubric
from models.http_retry import RequestFailed, limited_body, post

_MOST_BYTES = 1 << 20
"""Longest answer that is read."""
_SHORTEST_SECRET = 8
"""Shorter keys are placeholders, such as EMPTY, which may occur in any text."""


class JudgeReply(NamedTuple):
    """Holds the outcome of a request; exactly one of `raw` and `failure` is None."""

    raw: str | None
    """Body of the answer with status 200."""
    failure: str | None
    """Reason why there is no answer."""
    status: int | None
    """HTTP status of the last try."""
    tries: int
    latency_s: float
    """Seconds of the last try."""
    detail: str
    """Beginning of a refusal's body; empty for a wrong key, which it may describe."""


def request_body(
    config: JudgeConfig, rubric: Rubric, prompt: str, videos: Sequence[Sequence[FramePicture]], seed: int
) -> dict[str, Any]:
    """Build a chat completion: the rubric as instruction, then the prompt, then frames with their times."""
    parts: list[dict[str, Any]] = []

    def add(text: str) -> None:
        parts.append({"type": "text", "text": text})

    add(f"Text that the video was generated from:\n{prompt}" if prompt else "The text is not known.")
    for number, pictures in enumerate(videos):
        name = "The video" if len(videos) == 1 else ("The first video", "The second video")[number]
        add(f"{name}: {len(pictures)} frames")
        for picture in pictures:
            add(f"{picture.time_s:.2f} s")
            parts.append({"type": "image_url", "image_url": {"url": picture.data_url}})
    body = {
        "model": config.model,
        "messages": [{"role": "system", "content": rubric.text}, {"role": "user", "content": parts}],
        "temperature": config.temperature,
        "seed": seed,
        "max_tokens": config.most_output_tokens,
    }
    if config.answer_format == "json_schema":
        schema = {"name": rubric.answer, "strict": True, "schema": answer_schema(rubric.answer)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


async def ask_judge(
    session: aiohttp.ClientSession, config: JudgeConfig, body: bytes, before_try: Callable[[], None]
) -> JudgeReply:
    """Post a question, with further tries where one may help.

    Raises BudgetSpent where `before_try` does so for the first try.
    """
    starts: list[float] = []

    def count() -> None:
        before_try()
        starts.append(time.monotonic())

    async def read(answer: aiohttp.ClientResponse) -> str:
        return (await limited_body(answer, _MOST_BYTES)).decode(errors="replace")

    url, headers = config.url.rstrip("/") + "/chat/completions", {"Content-Type": "application/json"}
    raw = failure = status = None
    detail = ""
    try:
        raw = without_key(
            await post(session, url, read, 1 + config.retries, config.longest_wait_s, count, data=body, headers=headers)
        )
        status = 200
    except RequestFailed as error:
        failure, status = without_key(str(error)), error.status
        detail = "" if status in (401, 403) else without_key(error.detail)
    except BudgetSpent as error:
        if not starts:
            raise
        failure = f"no further try: {error}"
    return JudgeReply(raw, failure, status, len(starts), time.monotonic() - starts[-1], detail)


def without_key(text: str) -> str:
    """Remove the endpoint's key from a text that a server may have put it in."""
    secret = os.environ.get(JUDGE_KEY, "")
    return text.replace(secret, "[key]") if len(secret) >= _SHORTEST_SECRET else text
