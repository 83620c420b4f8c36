"""Further tries of a request: when the endpoint wants them, and not when it does not."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest

from models.errors import ConfigError
from models.http_retry import RequestFailed, open_session, post, proxy_of, retry_after_s
from tests.fakes.endpoint import served


async def _json(answer):
    return await answer.json(content_type=None)


def send(url: str, tries: int = 2, **more) -> dict:
    async def once():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            return await post(session, f"{url}/chat/completions", _json, tries, json={}, **more)

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


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://judge.site/v1", "http://proxy.site:3128"),
        ("https://judge.site/v1", "http://me:secret@proxy.site:3129"),
        ("http://inside.site/v1", None),
        ("http://127.0.0.1:8000/v1", None),
        ("http://127.3.2.1:8000/v1", None),
        ("http://[::1]:8000/v1", None),
        ("http://localhost:8000/v1", None),
        ("https://a.localhost/v1", None),
    ],
)
def test_a_proxy_of_the_environment_is_used_but_never_to_this_machine(monkeypatch, url, expected):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "proxy.site:3128")
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.site:3129")
    monkeypatch.setenv("no_proxy", "inside.site")
    assert proxy_of(url) == expected


@pytest.mark.parametrize("proxy", ["socks5://proxy.site:1080", "http://", "https://me:secret@proxy.site"])
def test_a_proxy_that_speaks_no_http_is_refused_without_its_password(monkeypatch, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ConfigError) as error:
        proxy_of("https://judge.site/v1")
    assert error.value.key == "https_proxy" and "secret" not in str(error.value)


def test_a_request_goes_through_the_proxy_with_the_token_of_its_own_endpoint(monkeypatch):
    heard = []

    def answer(_, headers):
        heard.append((headers["Host"], headers["Authorization"]))
        return 200, {"score": 1}

    with served(answer, path="http://judge.site/v1/chat/completions") as proxy:
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("A_TOKEN", "mine")

        async def once():
            async with open_session("http://judge.site/v1", "A_TOKEN", 5.0) as session:
                return await post(session, "http://judge.site/v1/chat/completions", _json, 1, json={})

        assert asyncio.run(asyncio.wait_for(once(), 10)) == {"score": 1}
    assert heard == [("judge.site", "Bearer mine")]
