"""Put questions to the judge: none that a transcript answers, none beyond the budget, none to a lost endpoint."""

import asyncio
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import aiohttp

from evaluation.judging.frame_pictures import FramePicture, planned_pictures
from evaluation.judging.judge_answers import JudgeAnswer, read_answer
from evaluation.judging.judge_budget import BudgetSpent, JudgeBudget, estimated_tokens
from evaluation.judging.judge_client import JudgeReply, ask_judge, request_body
from evaluation.judging.judge_config import JUDGE_KEY, JudgeConfig
from evaluation.judging.rubric import Rubric
from evaluation.judging.transcripts import Transcripts
from models.errors import ConfigError
from models.http_retry import open_session
from models.video_stream import UnreadableVideo

_HOPELESS = {
    401: f"set the right {JUDGE_KEY}", 403: f"set a {JUDGE_KEY} that may use judge.model",
    404: "check judge.url and judge.model",
}  # fmt: skip
"""HTTP statuses that every request would get, with their fixes."""
_MOST_FAILURES = 8
"""Failed requests in a row after which no more are made."""


@dataclass(frozen=True)
class JudgedVideo:
    """Names a video file and the text that it was generated from."""

    name: str
    path: Path
    prompt: str
    """Empty where it is not known."""


@dataclass(frozen=True)
class JudgeQuestion:
    """Identifies one request: what it shows, in which order, by which rubric, to which model."""

    videos: tuple[JudgedVideo, ...]
    digests: tuple[str, ...]
    """SHA-256 of the video files."""
    rubric: Rubric
    config: JudgeConfig
    repeat: int
    seed: int

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what decides the answer, for the transcript."""
        return {
            "rubric": self.rubric.record,
            "asked_model": self.config.model,
            "plan": asdict(self.config.plan),
            "videos": list(self.digests),
            "prompt": self.videos[0].prompt,
            "repeat": self.repeat,
            "temperature": self.config.temperature,
            "seed": self.seed,
        }

    @cached_property
    def key(self) -> str:
        """Return the digest under which the answer is kept; names and paths of files are no part of it."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


class Inquiry:
    """Asks questions and keeps the answers in transcripts."""

    def __init__(self, config: JudgeConfig, transcripts: Transcripts, progress: Callable[[str], None]):
        self._config, self._transcripts, self._progress = config, transcripts, progress
        self._budget = JudgeBudget(config, transcripts.calls, transcripts.dollars)
        self._unreadable: dict[str, str] = {}
        """Reasons by the video's digest."""
        self._halted: str | None = None
        """Reason why no more questions are asked."""
        self._decoding = asyncio.Lock()  # a decoder takes all cores
        self._failures_in_a_row = self._done = self._total = 0

    async def ask_all(self, questions: Sequence[JudgeQuestion]) -> None:
        """Ask every question without an answer; each video is decoded once for its questions. Raises OSError."""
        pending = {one.key: one for one in questions if self._transcripts.answered(one.key) is None}
        groups: dict[frozenset[str], list[JudgeQuestion]] = defaultdict(list)
        for question in pending.values():
            groups[frozenset(question.digests)].append(question)
        self._total, self._began_s = len(pending), time.monotonic()
        queue = iter(groups.values())
        async with open_session(self._config.url, JUDGE_KEY, self._config.timeout_s) as session:
            await asyncio.gather(*(self._work(session, queue) for _ in range(self._config.parallel)))
        if self._halted is not None:
            self._progress(f"judge: {self._total - self._done} of {self._total} questions not asked: {self._halted}")

    def answer(self, question: JudgeQuestion) -> JudgeAnswer:
        """Read the answer from its transcript, or the reason why there is none."""
        if (line := self._transcripts.answered(question.key)) is not None:
            return read_answer(line["raw"], question.rubric.answer)
        reasons = [self._unreadable[digest] for digest in question.digests if digest in self._unreadable]
        if not reasons and (line := self._transcripts.failed(question.key)) is not None:
            reasons.append(line["missing"])
        return JudgeAnswer(missing=reasons[0] if reasons else f"not asked: {self._halted}")

    async def _work(self, session: aiohttp.ClientSession, queue: Iterator[list[JudgeQuestion]]) -> None:
        for questions in queue:
            pictures: dict[str, list[FramePicture]] = {}
            for digest, video in zip(questions[0].digests, questions[0].videos, strict=True):
                async with self._decoding:
                    if self._halted is not None:
                        return
                    try:
                        pictures[digest] = await asyncio.to_thread(planned_pictures, video.path, self._config.plan)
                    except UnreadableVideo as error:
                        self._unreadable[digest] = str(error)
            for question in questions:
                if all(digest in pictures for digest in question.digests):
                    await self._ask(session, question, [pictures[digest] for digest in question.digests])
                else:
                    self._done += 1

    async def _ask(
        self, session: aiohttp.ClientSession, question: JudgeQuestion, videos: Sequence[Sequence[FramePicture]]
    ) -> None:
        """Ask one question, unless asking has ended; append its transcript."""
        if self._halted is not None:
            return
        prompt = question.videos[0].prompt
        body = json.dumps(request_body(self._config, question.rubric, prompt, videos, question.seed)).encode()
        tokens = estimated_tokens(question.rubric.text + prompt, (one for pictures in videos for one in pictures))
        try:
            reserved = self._budget.reserve(tokens)
            try:
                reply = await ask_judge(session, self._config, body, self._budget.count_call)
            finally:
                self._budget.release(reserved)
        except BudgetSpent as error:
            self._halted = self._halted or str(error)
            return
        answer, dollars = JudgeAnswer(missing=reply.failure), None
        if reply.raw is not None:
            answer = read_answer(reply.raw, question.rubric.answer)
            dollars = self._budget.charge(answer, tokens, reserved)
        frames = [[picture.record for picture in pictures] for pictures in videos]
        request = hashlib.sha256(body).hexdigest()
        self._transcripts.add(_line(question, reply, answer, dollars) | {"frames": frames, "request_sha256": request})
        self._watch(reply)

    def _watch(self, reply: JudgeReply) -> None:
        """Report progress; end asking where no further request can succeed."""
        self._done += 1
        self._failures_in_a_row = 0 if reply.failure is None else self._failures_in_a_row + 1
        if reply.failure is not None and (reply.status in _HOPELESS or self._failures_in_a_row >= _MOST_FAILURES):
            fix = _HOPELESS.get(reply.status, f"check judge.url: {self._failures_in_a_row} requests failed in a row")
            self._halted = self._halted or f"{reply.failure} ({fix})"
        left_s = (time.monotonic() - self._began_s) / self._done * (self._total - self._done)
        cost = "" if self._config.dollars(0, 0) is None else f" for ${self._budget.dollars:.2f}"
        self._progress(
            f"judge: {self._done} of {self._total} questions, {self._budget.calls} requests in all{cost}, "
            f"{left_s:.0f} s left"
        )


def ask_and_read(
    questions: Sequence[JudgeQuestion], config: JudgeConfig, transcript_path: Path, progress: Callable[[str], None]
) -> list[JudgeAnswer]:
    """Answer questions from transcripts and, where there is none, from the endpoint.

    Raises ConfigError for a transcript file that cannot be used, or without judge.url.
    """
    if config.url is None:
        raise ConfigError("judge.url", None, "there is no judge without it", "write judge.url=http://host:port/v1")
    with Transcripts(transcript_path) as transcripts:
        inquiry = Inquiry(config, transcripts, progress)
        try:
            asyncio.run(inquiry.ask_all(questions))
        except OSError as error:
            problem = f"it cannot be written ({error.strerror or error})"
            raise ConfigError("judge.transcripts", transcript_path, problem, "free the disk") from error
        return [inquiry.answer(question) for question in questions]


def _line(question: JudgeQuestion, reply: JudgeReply, answer: JudgeAnswer, dollars: float | None) -> dict[str, Any]:
    """Write down a request, but for what it sent."""
    return {
        "key": question.key,
        "names": [video.name for video in question.videos],
        **question.identity,
        "reported_model": answer.model,
        "revision": answer.revision,
        "raw": reply.raw,
        "value": answer.value,
        "missing": answer.missing,
        "error": reply.detail or None,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "dollars": dollars,
        "tries": reply.tries,
        "latency_s": round(reply.latency_s, 3),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
