"""A reward that lives behind HTTP: clips go out as safetensors or JSON, a number comes back. Nothing is unpickled.

A token goes into the environment (LONGTAKE_REWARD_TOKEN), not into the address, which config.yaml keeps. In case
there is one in it, only its host and port are ever logged.
"""

import asyncio
import base64
import json
import logging
import math
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rewards.reward import Clip
from rewards.reward_config import RewardConfig

_log = logging.getLogger(__name__)
TOKEN = "LONGTAKE_REWARD_TOKEN"
"""Environment variable with the endpoint's token, sent as `Authorization: Bearer`."""
_BINARY = "application/octet-stream"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
"""Before the first further try; each pause after it is twice as long."""
_AT_ONCE = 16
"""Requests under way: their bodies are held in memory, and a time-out counts from the start of a request."""
_OWN_SHARE = 0.9
"""Of reward.timeout_s: what is left lets this reward answer for its other clips before it is given up as a whole."""
_MOST_BYTES = 1 << 20
"""No answer that holds one number is longer."""
_AGAIN = (408, 425, 429)
"""Beside 5xx, the statuses that may pass."""


class _Failed(Exception):
    """A request that failed; `again` says whether another try may help."""

    def __init__(self, reason: str, again: bool):
        super().__init__(reason)
        self.again = again


class Remote:
    """The score that reward.url gives a clip; NaN, with the reason in `unscored`, where no try succeeded.

    Where no clip has a score the call fails, with the reason of the last one.
    """

    needs = frozenset({"pixels", "text"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        """Raises ValueError where reward.url is not set."""
        if config.url is None:
            raise ValueError("reward.url is not set, but the reward remote is asked for; give the endpoint's address")
        self._url, self._format, self._tries = config.url, config.remote_format, 1 + config.retries
        token = os.environ.get(TOKEN)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        address = urlsplit(config.url)
        self._place = address.hostname + (f":{address.port}" if address.port else "")
        self.unscored: str | None = None
        pauses = sum(_pause(number) for number in range(1, self._tries))
        self._try_s = max(_OWN_SHARE * config.timeout_s - pauses, 0.1 * config.timeout_s) / self._tries

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        # A loop of its own per call: a client must not outlive the loop it was made in, and threads come and go.
        answers = asyncio.run(self._ask_all(clips))
        failed = [answer for answer in answers if isinstance(answer, _Failed)]
        if failed and len(failed) == len(answers):
            raise ConnectionError(f"{self._place} scored none of {len(clips)} clips: {failed[-1]}")
        for reason in failed:
            _log.warning("remote reward at %s: %s", self._place, reason)
        self.unscored = f"{self._place}: {failed[-1]}" if failed else None
        scores = [math.nan if isinstance(answer, _Failed) else answer for answer in answers]
        return torch.tensor(scores, dtype=torch.float64)

    async def _ask_all(self, clips: Sequence[Clip]) -> list["float | _Failed"]:
        limit = aiohttp.ClientTimeout(total=self._try_s)
        async with aiohttp.ClientSession(timeout=limit, headers=self._headers) as session:
            free = asyncio.Semaphore(_AT_ONCE)
            return await asyncio.gather(*(self._ask(session, clip, free) for clip in clips))

    async def _ask(self, session: aiohttp.ClientSession, clip: Clip, free: asyncio.Semaphore) -> "float | _Failed":
        async with free:
            return await self._ask_again(session, clip)

    async def _ask_again(self, session: aiohttp.ClientSession, clip: Clip) -> "float | _Failed":
        body, kind = request_body(clip, self._format)
        for number in range(1, self._tries + 1):
            try:
                return await self._try(session, body, kind)
            except _Failed as error:
                if not error.again or number == self._tries:
                    return _Failed(f"{error} (try {number} of {self._tries})", again=False)
            await asyncio.sleep(_pause(number))
        raise AssertionError("the last try returns")

    async def _try(self, session: aiohttp.ClientSession, body: bytes, kind: str) -> float:
        headers = {"Content-Type": kind, "Accept": f"application/json, {_BINARY}"}
        try:
            # A redirect could send the clips anywhere.
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    again = answer.status >= 500 or answer.status in _AGAIN
                    raise _Failed(f"status {answer.status}, not 200", again)
                content = await _whole(answer.content)
                return score_of(content, answer.content_type)
        except TimeoutError as error:
            raise _Failed(f"no answer within {self._try_s:.3g} s", again=True) from error
        except aiohttp.ClientError as error:
            # The message of some errors quotes the whole address.
            raise _Failed(type(error).__name__, again=True) from error
        except ValueError as error:
            raise _Failed(str(error), again=False) from error


def request_body(clip: Clip, form: str) -> tuple[bytes, str]:
    """Body and content type of a request: `video` uint8 [T 3 H W] and `prompt`, as safetensors or json."""
    video = (clip.pixels * 255).round().clamp(0, 255).byte().cpu().contiguous()
    if form == "safetensors":
        return save({"video": video}, metadata={"prompt": clip.prompt}), _BINARY
    encoded = base64.b64encode(video.numpy().tobytes()).decode()
    content = {"prompt": clip.prompt, "shape": list(video.shape), "dtype": "uint8", "video": encoded}
    return json.dumps(content).encode(), "application/json"


def score_of(content: bytes, kind: str) -> float:
    """The score in an answer: {"score": number} as application/json, or else safetensors with score [1] or [].

    Raises ValueError for anything else.
    """
    if kind == "application/json":
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise ValueError("the answer is no JSON") from error
        score = answer.get("score") if isinstance(answer, dict) else None
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError('the answer has no number under "score"')
    else:
        try:
            tensor = load(content).get("score")
        except SafetensorError as error:
            raise ValueError("the answer is neither application/json nor safetensors") from error
        if tensor is None or tensor.numel() != 1 or tensor.is_complex():
            raise ValueError('the answer has no tensor "score" of one number')
        score = tensor.item()
    if not math.isfinite(score):
        raise ValueError(f"the answer's score is {score}")
    return float(score)


async def _whole(stream: aiohttp.StreamReader) -> bytes:
    content = bytearray()
    async for part in stream.iter_any():
        content += part
        if len(content) > _MOST_BYTES:
            raise ValueError(f"the answer is longer than {_MOST_BYTES} bytes")
    return bytes(content)


def _pause(number: int) -> float:
    """Seconds between try `number` and the next."""
    return min(_FIRST_PAUSE_S * 2 ** (number - 1), _LONGEST_PAUSE_S)
