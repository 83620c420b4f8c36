"""Short prompts made long by a language model behind an OpenAI-compatible endpoint: Wan was trained on long ones.

Answers are kept on disk as they come, so that a stopped command goes on. A prompt without an answer stays as it is.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import aiohttp

from actors.prompt_config import PromptConfig

TOKEN = "LONGTAKE_PROMPT_TOKEN"
"""Environment variable with the endpoint's key, sent as `Authorization: Bearer`."""
INSTRUCTION = (
    "Rewrite the user's text as one prompt for a video model: 80 to 100 words, one paragraph, in the user's language. "
    "Keep every subject, action, style and quoted text. Add what a camera would see: looks, motion, place, light, "
    "framing, camera movement. Motion goes on for the whole video. Answer with the prompt alone."
)
_GIVE_UP = 50
"""Failed prompts in a row after which the endpoint is asked no more."""
_PAUSE_S = 0.1
"""Before the first further try; each pause after it is twice as long."""
_AGAIN = (408, 425, 429)
"""Beside 5xx, the statuses that may pass."""


@dataclass(frozen=True)
class Extended:
    """Prompts in the order in which they were given, longer where there was an answer."""

    texts: tuple[str, ...]
    asked: int
    failed: int
    reason: str | None
    """Of the last failure."""

    def __str__(self) -> str:
        told = f"{len(self.texts) - self.failed:,} prompts extended, {self.asked:,} of them asked for now"
        return told + (f"; {self.failed:,} stay as they are ({self.reason})" if self.failed else "")


class _Failed(Exception):
    """A request that failed; `again` says whether another try may help."""

    def __init__(self, reason: str, again: bool):
        super().__init__(reason)
        self.again = again


def extend(texts: Sequence[str], config: PromptConfig, cache: Path) -> Extended:
    """Extend `texts` by `config.url`, or by what the file `cache` knows.

    Raises ValueError for a cache that is none, or that cannot be read or written.
    """
    failures: list[str] = []
    try:
        known = _known(cache)
        missing = [text for text in dict.fromkeys(texts) if _key(text, config) not in known]
        if missing:
            cache.parent.mkdir(parents=True, exist_ok=True)
            with cache.open("a", encoding="utf-8") as file:
                asyncio.run(_ask_all(missing, config, known, file, failures))
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"prompt.cache={cache} cannot be used ({reason}); make room, or change prompt.cache"
        ) from error
    longer = tuple(known.get(_key(text, config), text) for text in texts)
    left = sum(_key(text, config) not in known for text in texts)
    answered = sum(_key(text, config) in known for text in missing)
    return Extended(longer, answered, left, failures[-1] if failures else None)


def _known(cache: Path) -> dict[str, str]:
    """By key, what was answered. A line that a killed command left unfinished is cut off."""
    if not cache.is_file():
        return {}
    content = cache.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(cache, len(whole))
    known = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            known[entry["key"]] = str(entry["extended"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"prompt.cache={cache}: line {number} is no extended prompt; give another file") from error
    return known


def _key(text: str, config: PromptConfig) -> str:
    return hashlib.sha256(json.dumps([config.model, INSTRUCTION, text]).encode()).hexdigest()


async def _ask_all(
    texts: Sequence[str], config: PromptConfig, known: dict[str, str], file: TextIO, failures: list[str]
) -> None:
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limit = aiohttp.ClientTimeout(total=config.timeout_s)
    waiting, in_a_row = iter(texts), 0

    async def work(session: aiohttp.ClientSession, waiting: Iterator[str]) -> None:
        nonlocal in_a_row
        for text in waiting:
            try:
                answer = await _ask(session, text, config)
            except _Failed as error:
                failures.append(str(error))
                in_a_row += 1
                if in_a_row >= _GIVE_UP:
                    return
                continue
            in_a_row = 0
            known[_key(text, config)] = answer
            file.write(json.dumps({"key": _key(text, config), "prompt": text, "extended": answer}) + "\n")
            file.flush()  # what was paid for is kept if the command is killed

    async with aiohttp.ClientSession(timeout=limit, headers=headers) as session:
        await asyncio.gather(*(work(session, waiting) for _ in range(config.parallel)))


async def _ask(session: aiohttp.ClientSession, text: str, config: PromptConfig) -> str:
    for number in range(1 + config.retries):
        if number:
            await asyncio.sleep(_PAUSE_S * 2 ** (number - 1))
        try:
            return await _try(session, text, config)
        except _Failed as error:
            if not error.again or number == config.retries:
                raise
    raise AssertionError("the last try returns or raises")


async def _try(session: aiohttp.ClientSession, text: str, config: PromptConfig) -> str:
    messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}]
    body = {"model": config.model, "messages": messages, "temperature": 0.0}
    address = config.url.rstrip("/") + "/chat/completions"
    try:
        # A redirect could send the key anywhere.
        async with session.post(address, json=body, allow_redirects=False) as answer:
            if answer.status != 200:
                raise _Failed(f"status {answer.status}, not 200", answer.status >= 500 or answer.status in _AGAIN)
            content = await answer.json(content_type=None)
    except TimeoutError as error:
        raise _Failed(f"no answer within {config.timeout_s:.3g} s", again=True) from error
    except aiohttp.ClientError as error:
        # The message of some errors quotes the whole address.
        raise _Failed(type(error).__name__, again=True) from error
    except ValueError as error:
        raise _Failed("the answer is no JSON", again=False) from error
    return _longer(content, config)


def _longer(content: object, config: PromptConfig) -> str:
    """The prompt in an answer."""
    try:
        text = " ".join(content["choices"][0]["message"]["content"].split())
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Failed("the answer has no choices[0].message.content", again=False) from error
    if not config.min_characters <= len(text) <= config.max_characters:
        raise _Failed(f"an answer of {len(text)} characters", again=False)
    return text
