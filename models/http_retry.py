"""Post to an HTTP endpoint that may be slow, busy or broken, with further tries where one may help."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from models.errors import ConfigError

Answer = TypeVar("Answer")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
"""Before the first further try; each pause after it is twice as long."""
_DETAIL_BYTES = 2000
_TRANSIENT = (408, 425, 429)
"""Statuses besides 5xx after which another try may help."""


class RequestFailed(Exception):
    """Reports the reason of a request's last failed try. It omits the address, which may hold a token."""

    def __init__(self, reason: str, status: int | None = None, detail: str = ""):
        super().__init__(reason)
        self.status = status
        """HTTP status of the last try; None where it brought no answer."""
        self.detail = detail
        """Beginning of the last refusal's body; it may repeat what was sent."""


def open_session(url: str, variable: str, timeout_s: float) -> aiohttp.ClientSession:
    """Open a client for `url`, with the token in an environment variable; it must not outlive its event loop."""
    token, limit = os.environ.get(variable), aiohttp.ClientTimeout(total=timeout_s)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return aiohttp.ClientSession(timeout=limit, headers=headers, proxy=proxy_of(url))


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for `url`; None for this machine, and for hosts in no_proxy.

    aiohttp's own reading (trust_env) would send loopback to the proxy, and passwords of ~/.netrc to the endpoint.
    Raises ConfigError for a proxy that does not speak HTTP.
    """
    parts = urlsplit(url)
    host, name = parts.hostname or "", f"{parts.scheme}_proxy"
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    proxy = None if local or proxy_bypass(host) else getproxies().get(parts.scheme)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme != "http" or not urlsplit(proxy).hostname:
        # Its text may hold a password.
        raise ConfigError(name, None, "no HTTP proxy", f"set {name}=http://host:port, or add {host} to no_proxy")
    return proxy


def pause_s(number: int) -> float:
    """Return the seconds between try `number`, counted from 1, and the next."""
    return min(_FIRST_PAUSE_S * 2 ** (number - 1), _LONGEST_PAUSE_S)


def retry_after_s(header: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date; 0 without a readable one."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


async def limited_body(answer: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Read an answer's body. Raises ValueError behind `most_bytes`."""
    content = bytearray()
    async for part in answer.content.iter_any():
        content += part
        if len(content) > most_bytes:
            raise ValueError(f"the answer is longer than {most_bytes} bytes")
    return bytes(content)


async def post(
    session: aiohttp.ClientSession,
    url: str,
    read: Callable[[aiohttp.ClientResponse], Awaitable[Answer]],
    tries: int,
    patience_s: float = 0.0,
    before_try: Callable[[], None] = lambda: None,
    **request: Any,
) -> Answer:
    """Post `request` and return `read` of an answer with status 200, after at most `tries` tries.

    `read` raises ValueError for an answer of the wrong form, which no further try would change. A Retry-After of up to
    `patience_s` seconds is waited for; a longer one ends the tries where there is patience at all, and is ignored
    otherwise. Raises RequestFailed, and what `before_try` raises.
    """
    detail = ""
    for number in range(1, tries + 1):
        again, status, wait_s = True, None, 0.0
        before_try()
        try:
            # A redirect could send data and token anywhere.
            async with session.post(url, allow_redirects=False, **request) as answer:
                if (status := answer.status) == 200:
                    return await read(answer)
                reason = f"status {status}, not 200"
                again = status >= 500 or status in _TRANSIENT
                wait_s = retry_after_s(answer.headers.get("Retry-After")) if patience_s else 0.0
                detail = await _detail(answer)
        except TimeoutError:
            reason = f"no answer within {session.timeout.total:.3g} s"
        except aiohttp.ClientError as error:
            reason = type(error).__name__  # the message of some errors quotes the whole address
        except ValueError as error:
            reason, again = str(error), False
        if again and wait_s > patience_s:
            reason, again = f"{reason}, with a Retry-After of {wait_s:.0f} s", False
        if not again or number == tries:
            break
        await asyncio.sleep(max(pause_s(number), wait_s))
    raise RequestFailed(f"{reason}, at try {number} of {tries}", status, detail)


async def _detail(answer: aiohttp.ClientResponse) -> str:
    """Read the beginning of a refusal's body; empty where it cannot be read."""
    try:
        return (await answer.content.read(_DETAIL_BYTES)).decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError):
        return ""
