import asyncio
import base64
import json
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from aiohttp import web
from safetensors.torch import load, save

from models.errors import ConfigError
from rewards.attempt import attempt
from rewards.registry import make_reward
from rewards.remote import score_of
from rewards.reward import Clip
from rewards.reward_config import RewardConfig
from rewards.scorer import Scorer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def numbers(caplog) -> list[str]:
    """Find the numbers of the one logged line behind its address: status, expected status, try, tries."""
    (record,) = caplog.records
    return re.findall(r"\b\d+\b", re.sub(r"127\.0\.0\.1:\d+", "", record.getMessage()))


@contextmanager
def served(handler: Handler) -> Iterator[str]:
    """The address of a server that lives in a thread of its own."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def serve() -> web.AppRunner:
        application = web.Application(client_max_size=1 << 24)
        application.router.add_post("/score", handler)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/score")
        return runner

    def live() -> None:
        runner = loop.run_until_complete(serve())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def clips(count: int) -> list[Clip]:
    """Clip i has the prompt "clip i" and the brightness i / 10."""
    return [Clip(f"clip {i}", torch.full((2, 3, 4, 5), i / 10), torch.zeros(0)) for i in range(count)]


def ask(url: str, count: int = 3, **keys) -> list[float]:
    return make_reward("remote", RewardConfig(url=url, **keys))(clips(count)).tolist()


async def read(request: web.Request) -> tuple[str, torch.Tensor]:
    """Prompt and video of a request in either format."""
    body = await request.read()
    if request.content_type == "application/json":
        content = json.loads(body)
        pixels = torch.frombuffer(bytearray(base64.b64decode(content["video"])), dtype=torch.uint8)
        return content["prompt"], pixels.view(content["shape"])
    length = int.from_bytes(body[:8], "little")
    return json.loads(body[8 : 8 + length])["__metadata__"]["prompt"], load(body)["video"]


@pytest.mark.parametrize("form", ["safetensors", "json"])
@pytest.mark.parametrize("answered", ["safetensors", "json"])
def test_pixels_and_prompt_arrive_whole_and_scores_come_back_in_order(form, answered):
    async def handler(request: web.Request) -> web.Response:
        prompt, video = await read(request)
        number = int(prompt.split()[1])
        assert video.dtype == torch.uint8 and video.shape == (2, 3, 4, 5)
        score = video.float().mean().item() / 255 - number / 10
        if answered == "json":
            return web.json_response({"score": number + score})
        return web.Response(body=save({"score": torch.tensor([number + score])}))

    with served(handler) as url:
        assert ask(url, remote_format=form) == pytest.approx([0, 1, 2], abs=0.003)


def test_a_failed_clip_is_missing_and_the_others_are_not(caplog):
    async def handler(request: web.Request) -> web.Response:
        prompt, _ = await read(request)
        return web.Response(status=400) if prompt == "clip 1" else web.json_response({"score": 0.5})

    with served(handler) as url:
        scores = ask(url)
    assert scores[0] == scores[2] == 0.5 and math.isnan(scores[1])
    assert numbers(caplog) == ["400", "200", "1", "3"]


def test_what_may_pass_is_tried_again_and_the_tries_are_counted(caplog):
    tries = []

    async def handler(request: web.Request) -> web.Response:
        prompt, _ = await read(request)
        tries.append(prompt)
        if prompt == "clip 0" and tries.count("clip 0") < 3:
            return web.Response(status=503)
        return web.Response(status=500) if prompt == "clip 1" else web.json_response({"score": 1})

    with served(handler) as url:
        scores = ask(url, 2, retries=2)
    assert scores[0] == 1 and math.isnan(scores[1])
    assert tries.count("clip 0") == tries.count("clip 1") == 3
    assert numbers(caplog) == ["500", "200", "3", "3"]


def test_an_endpoint_that_is_down_leaves_every_clip_missing_and_logs_no_token(caplog):
    caplog.set_level(logging.WARNING, "rewards.attempt")  # the command rewards.try sets it for its process
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening
        port = taken.getsockname()[1]
        config = RewardConfig(window_frames=6, url=f"http://127.0.0.1:{port}/score?token=secret", retries=1)
        scorer = Scorer(config, ["remote"], lambda latents: latents.clamp(0, 1))
        scores = scorer.score("a prompt", torch.rand(2, 12, 3, 12, 12), None, None)
    assert all(math.isnan(score) for member in scores.values["remote"] for score in member)
    said = f"127.0.0.1:{port} scored none of 4 clips: ClientConnectorError, at try 2 of 2"
    assert said in scores.failures["remote"] and said in caplog.text and "secret" not in caplog.text


def test_why_some_clips_have_no_score_is_told_with_the_address_but_not_the_rest_of_the_url():
    async def handler(request: web.Request) -> web.Response:
        prompt, _ = await read(request)
        return web.Response(status=403) if prompt == "clip 1" else web.json_response({"score": 1})

    with served(handler) as url:
        reward = make_reward("remote", RewardConfig(url=f"{url}?token=secret"))
        partly = attempt("remote", reward, clips(3), 30)
        whole = attempt("remote", reward, clips(1), 30)
    assert re.search(r"\b1\b.*\b3\b.*127\.0\.0\.1:.*\b403\b", partly.failure)
    assert "secret" not in partly.failure and whole.failure is None


def test_a_token_in_the_environment_is_sent_and_never_logged(caplog, monkeypatch):
    monkeypatch.setenv("LONGTAKE_REWARD_TOKEN", "secret")
    sent = []

    async def handler(request: web.Request) -> web.Response:
        sent.append(request.headers.get("Authorization"))
        return web.json_response({"score": 1}) if len(sent) > 1 else web.Response(status=403)

    with served(handler) as url:
        ask(url, 2)
    assert set(sent) == {"Bearer secret"}
    assert "status 403" in caplog.text and "secret" not in caplog.text


def test_a_slow_endpoint_is_given_up_within_the_time_of_the_reward(caplog):
    released = threading.Event()

    async def handler(request: web.Request) -> web.Response:
        if (await read(request))[0] == "clip 1":
            await asyncio.to_thread(released.wait, 20)
        return web.json_response({"score": 1})

    with served(handler) as url:
        began = time.monotonic()
        scores = ask(url, timeout_s=2.0, retries=1)
        seconds = time.monotonic() - began
        released.set()
    assert scores[0] == scores[2] == 1 and math.isnan(scores[1])
    assert seconds < 2.0
    assert numbers(caplog)[-2:] == ["2", "2"]


def test_all_clips_of_a_call_are_sent_at_once():
    waiting, everyone = [], asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        waiting.append(await read(request))
        if len(waiting) == 8:
            everyone.set()
        await everyone.wait()
        return web.json_response({"score": 1})

    with served(handler) as url:
        assert ask(url, 8, timeout_s=20.0, retries=0) == [1.0] * 8


def test_a_redirect_is_not_followed():
    followed = []

    async def handler(request: web.Request) -> web.Response:
        if followed or request.query:
            followed.append(request)
        raise web.HTTPTemporaryRedirect("/score?again=1")

    with served(handler) as url, pytest.raises(ConnectionError, match="status 307"):
        ask(url)
    assert not followed


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"{", "application/json", "JSON"),
        (b"[1]", "application/json", '"score"'),
        (b'{"score": "high"}', "application/json", '"score"'),
        (b'{"score": true}', "application/json", '"score"'),
        (b'{"score": NaN}', "application/json", r"\bnan\b"),
        (b"cposix\nsystem\n", "application/octet-stream", "application/json .*safetensors"),
        (save({"value": torch.zeros(1)}), "application/octet-stream", '"score"'),
        (save({"score": torch.zeros(2)}), "application/octet-stream", '"score"'),
        (save({"score": torch.tensor([torch.inf])}), "application/octet-stream", r"\binf\b"),
    ],
)
def test_an_answer_that_is_no_score_is_refused(content, kind, reason):
    with pytest.raises(ValueError, match=reason):
        score_of(content, kind)


def test_an_endless_answer_is_not_read_to_its_end():
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b" " * (3 << 20), content_type="application/json")

    with served(handler) as url, pytest.raises(ConnectionError, match="1048576"):
        ask(url, 1)


def test_the_scorer_asks_a_remote_reward_and_counts_what_is_missing():
    async def handler(request: web.Request) -> web.Response:
        _, video = await read(request)
        return web.json_response({"score": len(video)}) if len(video) == 7 else web.Response(status=404)

    with served(handler) as url:
        scorer = Scorer(RewardConfig(window_frames=6, url=url), ["remote"], lambda latents: latents.clamp(0, 1))
        scores = scorer.score("a prompt", torch.rand(2, 12, 3, 12, 12), None, None)
    assert [member[1] for member in scores.values["remote"]] == [7, 7]
    assert all(math.isnan(member[0]) for member in scores.values["remote"])
    assert re.search(r"\b2\b.*\b4\b.*127\.0\.0\.1:", scores.failures["remote"]) and not scores.hung


def test_without_an_address_the_reward_is_refused_with_the_key():
    with pytest.raises(ConfigError) as caught:
        make_reward("remote", RewardConfig())
    assert caught.value.key == "reward.url"
