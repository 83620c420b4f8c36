"""Further tries of a request: when the endpoint wants them, and not when it does not."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest

from models.http_retry import RequestFailed, post, retry_after_s
from tests.fakes.endpoint import served


def send(url: str, tries: int = 2, **more) -> dict:
    async def read(answer):
        return await answer.json(content_type=None)

    async def once():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            return await post(session, f"{url}/chat/completions", read, tries, json={}, **more)

    return asyncio.run(asyncio.wait_for(once(), 10))


def busy_once(header: str):
    """An endpoint that is busy at the first try, and the times of the tries."""
    times = []

    def answer(*_):
        times.append(time.monotonic())
        return (200, {"tries": len(times)}) if len(times) > 1 else (429, {}, {"Retry-After": header})

    return answer, times


def test_the_endpoint_is_given_the_time_that_it_asks_for():
    answer, times = busy_once("0.2")
    with served(answer) as url:
        assert send(url, patience_s=5.0) == {"tries": 2}
    assert times[1] - times[0] >= 0.2


@pytest.mark.parametrize("header", ["3600", "inf", "a date"])
def test_no_try_comes_before_the_time_that_is_asked_for(header):
    date = format_datetime(datetime.now(UTC) + timedelta(days=9))
    answer, times = busy_once(date if header == "a date" else header)
    with served(answer) as url, pytest.raises(RequestFailed) as failed:
        send(url, tries=9, patience_s=5.0)
    assert failed.value.status == 429 and len(times) == 1


def test_without_patience_the_header_has_no_effect():
    answer, times = busy_once("3600")
    with served(answer) as url:
        assert send(url) == {"tries": 2}
    assert times[1] - times[0] < 5


@pytest.mark.parametrize(("header", "seconds"), [(None, 0), ("7", 7), ("-3", 0), ("soon", 0), ("nan", 0), ("", 0)])
def test_a_retry_after_is_seconds_or_nothing(header, seconds):
    assert retry_after_s(header) == seconds


def test_a_retry_after_may_be_a_date():
    assert 25 < retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)) <= 30
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_rejection_carries_the_beginning_of_its_body_apart_from_the_message():
    with served(lambda *_: (400, b"too long" + bytes(9000))) as url, pytest.raises(RequestFailed) as failed:
        send(url)
    assert failed.value.detail.startswith("too long") and len(failed.value.detail) <= 2000
    assert "too long" not in str(failed.value)


def test_every_try_is_announced_and_one_may_be_forbidden():
    announced = []

    def before():
        announced.append(1)
        if len(announced) == 2:
            raise PermissionError

    with served(lambda *_: (503, {})) as url, pytest.raises(PermissionError):
        send(url, tries=9, before_try=before)
    assert len(announced) == 2
