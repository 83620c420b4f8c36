"""Post to an HTTP endpoint that may be slow, busy or broken, with further tries where one may help."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp

Answer = TypeVar("Answer")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
"""Before the first further try; each pause after it is twice as long."""
_TRANSIENT = (408, 425, 429)
"""Statuses besides 5xx after which another try may help."""


class RequestFailed(Exception):
    """Reports the reason of a request's last failed try. It omits the address, which may hold a token."""


def bearer_header(variable: str) -> dict[str, str]:
    """Return the Authorization header for the token in this environment variable; empty where it is not set."""
    token = os.environ.get(variable)
    return {"Authorization": f"Bearer {token}"} if token else {}


def pause_s(number: int) -> float:
    """Return the seconds between try `number`, counted from 1, and the next."""
    return min(_FIRST_PAUSE_S * 2 ** (number - 1), _LONGEST_PAUSE_S)


async def post(
    session: aiohttp.ClientSession,
    url: str,
    read: Callable[[aiohttp.ClientResponse], Awaitable[Answer]],
    tries: int,
    **request: Any,
) -> Answer:
    """Post `request` and return `read` of an answer with status 200, after at most `tries` tries.

    `read` raises ValueError for an answer of the wrong form, which no further try would change. Raises RequestFailed.
    """
    for number in range(1, tries + 1):
        again = True
        try:
            # A redirect could send data and token anywhere.
            async with session.post(url, allow_redirects=False, **request) as answer:
                if answer.status == 200:
                    return await read(answer)
                reason = f"status {answer.status}, not 200"
                again = answer.status >= 500 or answer.status in _TRANSIENT
        except TimeoutError:
            reason = f"no answer within {session.timeout.total:.3g} s"
        except aiohttp.ClientError as error:
            reason = type(error).__name__  # the message of some errors quotes the whole address
        except ValueError as error:
            reason, again = str(error), False
        if not again or number == tries:
            break
        await asyncio.sleep(pause_s(number))
    raise RequestFailed(f"{reason}, at try {number} of {tries}")
