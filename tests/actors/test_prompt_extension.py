"""Prompts made longer by an endpoint: what comes back, what is kept, what happens when nothing does."""

import socket

import pytest

from actors.prompt_config import PromptConfig
from actors.prompt_extension import INSTRUCTION, TOKEN, extend_prompts
from models.errors import ConfigError
from tests.fakes.endpoint import longer, served


def test_prompts_come_back_longer_and_in_order(tmp_path):
    texts = [f"a cat number {i}" for i in range(40)]
    with served(lambda body, _: (200, longer(body))) as url:
        made = extend_prompts(texts, PromptConfig(url=url), tmp_path / "cache.jsonl")
    assert made.texts == tuple(f"A film of {text}, slow and bright." for text in texts)
    assert (made.asked, made.failed, made.reason) == (40, 0, None)


def test_model_instruction_and_key_are_sent(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, "secret")
    seen = []

    def answer(body, headers):
        seen.append((body["model"], body["messages"][0], headers["Authorization"]))
        return 200, longer(body)

    with served(answer) as url:
        extend_prompts(["a cat asleep"], PromptConfig(url=url + "/", model="m"), tmp_path / "cache.jsonl")
    assert seen == [("m", {"role": "system", "content": INSTRUCTION}, "Bearer secret")]
    assert "secret" not in (tmp_path / "cache.jsonl").read_text()


def test_what_was_answered_once_is_never_asked_again_not_even_by_a_killed_command(tmp_path):
    asked = []

    def answer(body, _):
        asked.append(body["messages"][1]["content"])
        return 200, longer(body)

    cache = tmp_path / "deep" / "cache.jsonl"
    with served(answer) as url:
        config = PromptConfig(url=url)
        first = extend_prompts(["a cat asleep", "a dog awake"], config, cache)
        with cache.open("a") as file:
            file.write('{"key": "abc", "exten')  # killed while writing
        again = extend_prompts(["a cat asleep", "a dog awake", "a bird in flight"], config, cache)
        extend_prompts(["a bird in flight"], config, cache)
    assert again.texts[:2] == first.texts and (again.asked, again.failed) == (1, 0)
    assert sorted(asked) == ["a bird in flight", "a cat asleep", "a dog awake"]


def test_another_model_is_asked_again(tmp_path):
    with served(lambda body, _: (200, longer(body) if body["model"] == "one" else {"choices": []})) as url:
        extend_prompts(["a cat asleep"], PromptConfig(url=url, model="one"), tmp_path / "c")
        assert extend_prompts(["a cat asleep"], PromptConfig(url=url, model="two"), tmp_path / "c").texts == (
            "a cat asleep",
        )


@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (401, {}, " 401"),
        (500, {}, " 500"),
        (302, {}, " 302"),
        (200, b"<html>", "JSON"),
        (200, {"choices": []}, "choices[0].message.content"),
        (200, {"choices": [{"message": {"content": None}}]}, "choices[0].message.content"),
        (200, {"choices": [{"message": {"content": "no"}}]}, " 2 "),
        (200, {"choices": [{"message": {"content": 3000 * "y"}}]}, " 3000 "),
    ],
)
def test_a_failure_keeps_the_plain_prompt_and_is_counted_with_its_reason(tmp_path, status, content, reason):
    def answer(body, _):
        return (status, content) if "dog" in body["messages"][1]["content"] else (200, longer(body))

    with served(answer) as url:
        made = extend_prompts(["a cat asleep", "a dog awake"], PromptConfig(url=url, retries=1), tmp_path / "c")
    assert made.texts == ("A film of a cat asleep, slow and bright.", "a dog awake")
    assert (made.asked, made.failed) == (1, 1) and reason in made.reason
    assert made.reason in str(made)


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(tmp_path):
    tries = []

    def answer(body, _):
        tries.append(body["messages"][1]["content"])
        if "dog" in tries[-1]:
            return 400, {}
        return (503, {}) if tries.count(tries[-1]) < 3 else (200, longer(body))

    with served(answer) as url:
        made = extend_prompts(["a cat asleep", "a dog awake"], PromptConfig(url=url, retries=2), tmp_path / "c")
    assert made.texts[0].startswith("A film") and made.failed == 1
    assert (tries.count("a cat asleep"), tries.count("a dog awake")) == (3, 1)


def test_an_endpoint_that_is_down_is_given_up_and_all_prompts_stay(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    texts = [f"a cat number {i}" for i in range(500)]
    made = extend_prompts(texts, PromptConfig(url=url, retries=0, parallel=4), tmp_path / "c")
    assert made.texts == tuple(texts) and (made.asked, made.failed) == (0, 500)
    assert made.reason.startswith("ClientConnectorError")


def test_a_cache_that_is_none_is_refused(tmp_path):
    (tmp_path / "c").write_text("thesis\n")
    with pytest.raises(ConfigError) as caught:
        extend_prompts(["a cat asleep"], PromptConfig(url="http://127.0.0.1:1"), tmp_path / "c")
    assert (caught.value.key, caught.value.value) == ("prompt.cache", tmp_path / "c") and "line 1" in str(caught.value)
