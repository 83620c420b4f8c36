"""Score clips by an HTTP endpoint: clips go out as safetensors or JSON, a number comes back. Nothing is unpickled.

The token belongs in the environment (LONGTAKE_REWARD_TOKEN), not in the address, which config.yaml keeps. In case the
address holds one, only its host and port are ever logged.
"""

import asyncio
import base64
import json
import logging
import math
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.errors import ConfigError
from models.http_retry import RequestFailed, limited_body, open_session, pause_s, post, proxy_of
from rewards.reward import Clip
from rewards.reward_config import RewardConfig

_log = logging.getLogger(__name__)
TOKEN = "LONGTAKE_REWARD_TOKEN"
"""Environment variable with the endpoint's token, sent as `Authorization: Bearer`."""
_BINARY = "application/octet-stream"
_MOST_REQUESTS = 16
"""Requests under way: their bodies are held in memory, and a time-out counts from the start of a request."""
_OWN_SHARE = 0.9
"""Share of reward.timeout_s for all tries of a clip; the rest lets the call return with its other scores."""
_MOST_BYTES = 1 << 20
"""Longest answer that is read: one number needs less."""


class Remote:
    """Returns the score that reward.url gives a clip; NaN, with the reason in `unscored`, where no try succeeded.

    Raises ConnectionError, with the last reason, where no clip of a call has a score.
    """

    needs = frozenset({"pixels", "text"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        """Read the address and its limits. Raises ConfigError where reward.url is not set, or its proxy is none."""
        if config.url is None:
            raise ConfigError(
                "reward.url", None, "the reward `remote` has no endpoint", "write reward.url=http://host:port/path"
            )
        proxy_of(config.url)
        self._url, self._format, self._tries = config.url, config.remote_format, 1 + config.retries
        address = urlsplit(config.url)
        self._place = address.hostname + (f":{address.port}" if address.port else "")
        self.unscored: str | None = None
        pauses = sum(pause_s(number) for number in range(1, self._tries))
        self._try_s = max(_OWN_SHARE * config.timeout_s - pauses, 0.1 * config.timeout_s) / self._tries

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        # A loop of its own per call: a client must not outlive the loop it was made in, and threads come and go.
        answers = asyncio.run(self._scores(clips))
        failed = [answer for answer in answers if isinstance(answer, RequestFailed)]
        if failed and len(failed) == len(answers):
            raise ConnectionError(f"{self._place} scored none of {len(clips)} clips: {failed[-1]}")
        for reason in failed:
            _log.warning("remote reward at %s: %s", self._place, reason)
        self.unscored = f"{self._place}: {failed[-1]}" if failed else None
        scores = [math.nan if isinstance(answer, RequestFailed) else answer for answer in answers]
        return torch.tensor(scores, dtype=torch.float64)

    async def _scores(self, clips: Sequence[Clip]) -> list[float | RequestFailed]:
        """Post each clip's `video` uint8 [T 3 H W] and `prompt`; a clip that failed yields its exception."""
        free = asyncio.Semaphore(_MOST_REQUESTS)

        async def read(answer: aiohttp.ClientResponse) -> float:
            return score_of(await limited_body(answer, _MOST_BYTES), answer.content_type)

        async def ask(session: aiohttp.ClientSession, clip: Clip) -> float | RequestFailed:
            async with free:
                video = (clip.pixels * 255).round().clamp(0, 255).byte().cpu().contiguous()
                if self._format == "safetensors":
                    body, kind = save({"video": video}, metadata={"prompt": clip.prompt}), _BINARY
                else:
                    encoded = base64.b64encode(video.numpy().tobytes()).decode()
                    content = {"prompt": clip.prompt, "shape": list(video.shape), "dtype": "uint8", "video": encoded}
                    body, kind = json.dumps(content).encode(), "application/json"
                headers = {"Content-Type": kind, "Accept": f"application/json, {_BINARY}"}
                try:
                    return await post(session, self._url, read, self._tries, data=body, headers=headers)
                except RequestFailed as error:
                    return error

        async with open_session(self._url, TOKEN, self._try_s) as session:
            return await asyncio.gather(*(ask(session, clip) for clip in clips))


def score_of(content: bytes, kind: str) -> float:
    """Read the score in an answer: {"score": number} as application/json, or else safetensors with score [1] or [].

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
