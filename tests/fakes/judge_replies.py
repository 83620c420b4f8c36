"""Answers of a judge's endpoint, good and bad, and small films for it to judge."""

import json
from pathlib import Path

from evaluation.judging.inquiry import JudgedVideo
from tests.fakes.films import grey_ramp, write_film

KEY = "key-of-this-test-123"


def completion(content: object, **more: object) -> dict:
    """A chat completion with this content, made of 1,000 input and 100 output tokens."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return {"model": "judge-2026", "usage": usage, "choices": [{"message": {"content": content}}]} | more


def scored(score: object, reasoning: object = "The luma stays.") -> dict:
    return completion(json.dumps({"reasoning": reasoning, "score": score}))


def verdict(name: str) -> dict:
    return completion(json.dumps({"reasoning": "The first one darkens.", "verdict": name}))


def short_film(path: Path, frames: int = 9, level: int = 0) -> Path:
    """A film of 4 frames a second whose frame i has the level + 10 i."""
    return write_film(path, grey_ramp(frames, level, level + 10 * (frames - 1), (32, 48)), fps=4)


def films(folder: Path, count: int) -> list[JudgedVideo]:
    """Films of different content, named film_0 and so on, each with a prompt of its own."""
    return [
        JudgedVideo(f"film_{i}", short_film(folder / f"{i}.mp4", level=5 * i), f"a film of number {i}")
        for i in range(count)
    ]


def asked_prompt(body: dict) -> str:
    """The prompt in a request."""
    return body["messages"][1]["content"][0]["text"].splitlines()[-1]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
