"""Lengthen prompts by a language model behind an OpenAI-compatible endpoint: Wan was trained on long prompts.

Answers are written to disk as they come, so that a stopped command resumes. A prompt without an answer stays as it is.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import aiohttp

from actors.prompt_config import PromptConfig
from models.errors import ConfigError
from models.http_retry import RequestFailed, open_session, post
from models.json_lines import complete_lines, end_last_line

TOKEN = "LONGTAKE_PROMPT_TOKEN"
"""Environment variable with the endpoint's key, sent as `Authorization: Bearer`."""
INSTRUCTION = (
    "Rewrite the user's text as one prompt for a video model: 80 to 100 words, one paragraph, in the user's language. "
    "Keep every subject, action, style and quoted text. Add what a camera would see: looks, motion, place, light, "
    "framing, camera movement. Motion goes on for the whole video. Answer with the prompt alone."
)
_MOST_FAILURES = 50
"""Number of failed prompts in a row after which no more are sent."""


@dataclass(frozen=True)
class ExtendedPrompts:
    """Holds prompts in their given order, extended where an answer came."""

    texts: tuple[str, ...]
    asked: int
    failed: int
    reason: str | None
    """Reason of the last failure."""

    def __str__(self) -> str:
        extended = f"{len(self.texts) - self.failed:,} prompts extended, {self.asked:,} of them by this command"
        return extended + (f"; {self.failed:,} not extended ({self.reason})" if self.failed else "")


def extend_prompts(texts: Sequence[str], config: PromptConfig, cache: Path) -> ExtendedPrompts:
    """Extend `texts` by the answers in the file `cache`, and by those of `config.url` for the others.

    Raises ConfigError for a cache that has another content, or that cannot be read or written.
    """
    failures: list[str] = []
    answers: dict[str, str] = {}
    try:
        for number, line in enumerate(complete_lines(cache), start=1):
            try:
                entry = json.loads(line)
                answers[entry["key"]] = str(entry["extended"])
            except (ValueError, TypeError, KeyError) as error:
                problem = f"line {number} is no extended prompt"
                raise ConfigError("prompt.cache", cache, problem, "name another file") from error
        missing = [text for text in dict.fromkeys(texts) if _key(text, config) not in answers]
        if missing:
            end_last_line(cache)
            cache.parent.mkdir(parents=True, exist_ok=True)
            with cache.open("a", encoding="utf-8") as file:
                asyncio.run(_ask_all(missing, config, answers, file, failures))
    except OSError as error:
        problem = f"it cannot be used ({error.strerror or error})"
        raise ConfigError("prompt.cache", cache, problem, "free the disk or name another") from error
    longer = tuple(answers.get(_key(text, config), text) for text in texts)
    failed = sum(_key(text, config) not in answers for text in texts)
    answered = sum(_key(text, config) in answers for text in missing)
    return ExtendedPrompts(longer, answered, failed, failures[-1] if failures else None)


def _key(text: str, config: PromptConfig) -> str:
    return hashlib.sha256(json.dumps([config.model, INSTRUCTION, text]).encode()).hexdigest()


async def _ask_all(
    texts: Sequence[str], config: PromptConfig, answers: dict[str, str], file: TextIO, failures: list[str]
) -> None:
    """Post `texts`, `config.parallel` at a time; add to `answers`, `file` and the reasons of `failures`."""
    url, queue, in_a_row = config.url.rstrip("/") + "/chat/completions", iter(texts), 0

    async def read(answer: aiohttp.ClientResponse) -> str:
        try:
            content = await answer.json(content_type=None)
        except ValueError as error:
            raise ValueError("the answer is no JSON") from error
        try:
            text = " ".join(content["choices"][0]["message"]["content"].split())
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError("the answer has no choices[0].message.content") from error
        if not config.min_characters <= len(text) <= config.max_characters:
            raise ValueError(f"an answer of {len(text)} characters")
        return text

    async def work(session: aiohttp.ClientSession, queue: Iterator[str]) -> None:
        nonlocal in_a_row
        for text in queue:
            messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}]
            body = {"model": config.model, "messages": messages, "temperature": 0.0}
            try:
                answer = await post(session, url, read, 1 + config.retries, json=body)
            except RequestFailed as error:
                failures.append(str(error))
                in_a_row += 1
                if in_a_row >= _MOST_FAILURES:
                    return
                continue
            in_a_row = 0
            answers[_key(text, config)] = answer
            file.write(json.dumps({"key": _key(text, config), "prompt": text, "extended": answer}) + "\n")
            file.flush()  # a killed command keeps the answers that were paid for

    async with open_session(url, TOKEN, config.timeout_s) as session:
        await asyncio.gather(*(work(session, queue) for _ in range(config.parallel)))
