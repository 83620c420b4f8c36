"""Judge films by an endpoint that is good, slow, busy, broken or absent: no score is invented, no answer is lost."""

import hashlib
import json
import socket
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.judging.inquiry import JudgedVideo
from evaluation.judging.judge_config import JUDGE_KEY, JudgeConfig
from evaluation.judging.video_judge import VideoVerdict, judge_videos, visual_stability
from models.errors import ConfigError
from tests.fakes.endpoint import served
from tests.fakes.judge_replies import KEY, asked_prompt, completion, films, lines_of, scored, short_film

PRICES = {"dollars_per_million_input": 2.0, "dollars_per_million_output": 10.0}
COST = 1000 * 2e-6 + 100 * 10e-6
"""Dollars of one answer of the fake endpoint."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return films(tmp_path_factory.mktemp("films"), 4)


@pytest.fixture
def transcripts(tmp_path):
    return tmp_path / "deep" / "judge.jsonl"


def config(url: str, **keys) -> JudgeConfig:
    return JudgeConfig(**{"url": url, "timeout_s": 5.0, "retries": 1, "rows": 16, "parallel": 4} | keys)


def score_by_number(body: dict, *_):
    """Film i has the score i."""
    return 200, scored(int(asked_prompt(body).split()[-1]))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=128, max_size=128))
def test_visual_stability_of_128_whole_scores_moves_in_steps_of_0_15625(scores):
    steps = visual_stability(scores) / 0.15625
    assert steps == round(steps) == sum(scores)


@pytest.mark.parametrize("paper", [90.94, 84.22, 35.00, 32.03, 40.47, 39.84, 44.69, 42.19, 52.50])
def test_the_papers_numbers_are_such_steps(paper):
    total = round(paper / 0.15625)
    scores = [total // 128 + (i < total % 128) for i in range(128)]
    assert round(visual_stability(scores), 2) == pytest.approx(paper, abs=0.0051)


def test_missing_scores_are_not_zeros():
    assert visual_stability([5, None, 4]) == 90.0 and visual_stability([None]) is None and visual_stability([]) is None


def test_each_video_has_twenty_times_its_score_and_a_whole_transcript(videos, transcripts):
    with served(score_by_number) as url:
        verdicts = judge_videos(videos, config(url, **PRICES), transcripts)
    assert verdicts == {f"film_{i}": VideoVerdict(20.0 * i, (i,), ()) for i in range(4)}
    lines = {line["names"][0]: line for line in lines_of(transcripts)}
    assert len(lines) == 4
    for video in videos:
        line = lines[video.name]
        assert line["videos"] == [hashlib.sha256(video.path.read_bytes()).hexdigest()]
        assert line["prompt"] == video.prompt and line["asked_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
        assert line["reported_model"] == "judge-2026" and line["rubric"]["id"] == "exposure_stability"
        assert line["rubric"]["version"] and len(line["rubric"]["sha256"]) == len(line["request_sha256"]) == 64
        assert [frame["index"] for frame in line["frames"][0]] == [0, 4, 8]
        assert json.loads(json.loads(line["raw"])["choices"][0]["message"]["content"])["score"] == line["value"]
        assert (line["input_tokens"], line["output_tokens"], line["tries"]) == (1000, 100, 1)
        assert line["dollars"] == pytest.approx(COST) and line["latency_s"] >= 0 and line["missing"] is None


def test_the_request_shows_rubric_prompt_and_frames_with_their_times(videos, transcripts):
    bodies, tokens = [], []

    def answer(body, headers):
        bodies.append(body)
        tokens.append(headers.get("Authorization"))
        return 200, scored(5)

    with served(answer) as url:
        judge_videos(videos[:1], config(url + "/", model="m", seed=7, repeats=2), transcripts)
    assert sorted(body["seed"] for body in bodies) == [7, 8] and tokens == [None, None]
    for body in bodies:
        assert body["model"] == "m" and body["temperature"] == 0
        system, user = body["messages"]
        assert "reasoning" in system["content"] and "whole duration" in system["content"]
        texts = [part["text"] for part in user["content"] if part["type"] == "text"]
        assert videos[0].prompt in texts[0] and texts[-3:] == ["0.00 s", "1.00 s", "2.00 s"]
        images = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
        assert len(images) == 3 and all(image.startswith("data:image/jpeg;base64,") for image in images)
        schema = body["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["reasoning", "score"]


def test_an_endpoint_without_schemas_is_sent_none_and_the_answer_is_read_as_strictly(videos, transcripts):
    bodies = []

    def answer(body, headers):
        bodies.append(body)
        return 200, completion("4" if len(bodies) > 1 else '```json\n{"reasoning": "r", "score": 4}\n```')

    with served(answer) as url:
        verdicts = judge_videos(videos[:2], config(url, answer_format="text", parallel=1), transcripts)
    assert [verdict.score for verdict in verdicts.values()] == [80.0, None]
    assert not any("response_format" in body for body in bodies)


def test_progress_is_a_line_per_answer_with_the_cost_where_prices_are_known(videos, transcripts):
    lines, free = [], []
    with served(score_by_number) as url:
        judge_videos(videos[:2], config(url, **PRICES), transcripts, lines.append)
        judge_videos(videos[2:], config(url), transcripts, free.append)
    assert [line.startswith(f"judge: {i} of 2") for i, line in enumerate(lines, start=1)] == [True, True]
    assert "$" in lines[1] and len(free) == 2 and not any("$" in line for line in free)


def test_a_second_run_asks_nothing_and_says_the_same(videos, transcripts):
    asked = []

    def answer(body, headers):
        asked.append(asked_prompt(body))
        return score_by_number(body)

    with served(answer) as url:
        first = judge_videos(videos, config(url, repeats=2), transcripts)
        content = transcripts.read_bytes()
        renamed = [replace(video, name=f"other_{video.name}") for video in videos]
        second = judge_videos(renamed, config(url, repeats=2), transcripts)
        more = judge_videos(videos, config(url, repeats=3), transcripts)
    assert Counter(asked) == {video.prompt: 3 for video in videos}
    assert list(second.values()) == list(first.values()) and transcripts.read_bytes().startswith(content)
    assert [verdict.repeats for verdict in more.values()] == [(i, i, i) for i in range(4)]


@pytest.mark.parametrize(
    "change", [{"model": "m"}, {"most_frames": 2}, {"rows": 20}, {"seed": 1}, {"temperature": 0.5}, {"rubric": "own"}]
)
def test_another_question_is_asked_anew(videos, transcripts, tmp_path, change):
    asked = []
    own = tmp_path / "own.txt"
    own.write_text("id: own\nversion: 1\nanswer: score\n\nGive a score.\n")
    change = {"rubric": str(own)} if "rubric" in change else change

    def answer(body, headers):
        asked.append(body)
        return score_by_number(body)

    with served(answer) as url:
        judge_videos(videos[:1], config(url), transcripts)
        judge_videos(videos[:1], config(url, **change), transcripts)
        judge_videos([replace(videos[0], prompt="another film of number 1")], config(url), transcripts)
        short_film(other := tmp_path / "x.mp4", level=77)
        judge_videos([replace(videos[0], path=other)], config(url), transcripts)
        judge_videos(videos[:1], config(url), transcripts)
    assert len(asked) == 4


def test_two_files_of_one_content_and_prompt_are_asked_once(videos, transcripts):
    asked = []

    def answer(body, headers):
        asked.append(body)
        return 200, scored(4)

    with served(answer) as url:
        verdicts = judge_videos([videos[0], replace(videos[0], name="twin")], config(url), transcripts)
    assert len(asked) == 1 and verdicts["twin"] == verdicts["film_0"] == VideoVerdict(80.0, (4,), ())


BAD = {
    "malformed": (200, b'{"choices": [{"message": {"content": "'),
    "page": (200, b"<html>busy</html>"),
    "prose": (200, completion("I would give it a 4.")),
    "refusal": (200, completion(None, choices=[{"message": {"content": None}, "finish_reason": "content_filter"}])),
    "empty": (200, completion("")),
    "above": (200, scored(6)),
    "half point": (200, scored(4.5)),
    "no reasoning": (200, scored(4, "")),
    "cut off": (200, completion(None, choices=[{"message": {"content": '{"reason'}, "finish_reason": "length"}])),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_cannot_be_read_is_missing_for_good_and_kept_whole(videos, transcripts, name):
    asked = []

    def answer(body, headers):
        asked.append(asked_prompt(body))
        return BAD[name] if "number 1" in asked[-1] else score_by_number(body)

    with served(answer) as url:
        first = judge_videos(videos, config(url, **PRICES), transcripts)
        again = judge_videos(videos, config(url, **PRICES), transcripts)
    assert first == again and len(asked) == 4
    assert first["film_1"].score is None and first["film_1"].repeats == (None,) and len(first["film_1"].missing) == 1
    assert [verdict.score for verdict in first.values()] == [0.0, None, 40.0, 60.0]
    line = next(line for line in lines_of(transcripts) if line["names"] == ["film_1"])
    content = BAD[name][1]
    assert line["raw"].encode() == (content if isinstance(content, bytes) else json.dumps(content).encode())
    assert line["value"] is None and line["missing"] == first["film_1"].missing[0] and line["dollars"] > 0


HALF = (200, json.dumps(scored(4)).encode()[:40], {"Content-Length": "4000"})


@pytest.mark.parametrize("bad", [(500, {}), (429, {}, {"Retry-After": "0"}), (503, {}), HALF])
def test_what_passes_is_tried_again_within_the_question(videos, transcripts, bad):
    tries = Counter()

    def answer(body, headers):
        tries[asked_prompt(body)] += 1
        return bad if tries[asked_prompt(body)] == 1 else score_by_number(body)

    with served(answer) as url:
        verdicts = judge_videos(videos, config(url), transcripts)
    assert [verdict.score for verdict in verdicts.values()] == [0.0, 20.0, 40.0, 60.0]
    assert {line["tries"] for line in lines_of(transcripts)} == {2} and set(tries.values()) == {2}


@pytest.mark.parametrize("bad", [(500, {}), (400, {}), (429, {}, {"Retry-After": "3600"}), HALF])
def test_what_does_not_pass_is_missing_and_asked_again_by_the_next_run(videos, transcripts, bad):
    broken = True

    def answer(body, headers):
        return bad if broken and "number 2" in asked_prompt(body) else score_by_number(body)

    with served(answer) as url:
        first = judge_videos(videos, config(url), transcripts)
        broken = False
        second = judge_videos(videos, config(url), transcripts)
    assert first["film_2"].score is None and len(first["film_2"].missing) == 1
    assert [verdict.score for verdict in second.values()] == [0.0, 20.0, 40.0, 60.0]
    lines = [line for line in lines_of(transcripts) if line["names"] == ["film_2"]]
    assert [line["value"] for line in lines] == [None, 2] and lines[0]["raw"] is None and lines[0]["missing"]
    assert len(lines_of(transcripts)) == 5


def test_a_slow_answer_is_given_up_and_others_are_not_lost(videos, transcripts):
    released = threading.Event()

    def answer(body, headers):
        if "number 3" in asked_prompt(body):
            released.wait(10)
        return score_by_number(body)

    with served(answer) as url:
        began = time.monotonic()
        verdicts = judge_videos(videos, config(url, timeout_s=1.0, retries=0), transcripts)
        seconds = time.monotonic() - began
        released.set()
    assert verdicts["film_3"].score is None and seconds < 8
    assert [verdict.score for verdict in verdicts.values()][:3] == [0.0, 20.0, 40.0]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_asking_with_one_line_and_no_secret(
    videos, transcripts, status, monkeypatch, capfd, caplog
):
    monkeypatch.setenv(JUDGE_KEY, KEY)
    seen, lines = [], []

    def answer(body, headers):
        seen.append(headers["Authorization"])
        return status, {"error": f"Incorrect key {KEY}"}

    with served(answer) as url:
        verdicts = judge_videos(videos, config(url, parallel=1), transcripts, lines.append)
    assert seen == [f"Bearer {KEY}"]
    assert all(verdict.score is None and str(status) in verdict.missing[0] for verdict in verdicts.values())
    assert sum("not asked" in line for line in lines) == 1 and all("\n" not in line for line in lines)
    output = capfd.readouterr()
    everything = [*lines, repr(verdicts), transcripts.read_text(), caplog.text, output.out, output.err]
    assert not any(KEY in text for text in everything)


def test_a_key_that_the_server_repeats_is_not_stored(videos, transcripts, monkeypatch):
    monkeypatch.setenv(JUDGE_KEY, KEY)
    with served(lambda body, _: (200, scored(3, f"You sent {KEY}."))) as url:
        verdicts = judge_videos(videos[:1], config(url), transcripts)
    assert verdicts["film_0"].score == 60.0
    assert KEY not in transcripts.read_text() and "You sent [key]." in transcripts.read_text()


def test_what_the_endpoint_says_about_a_rejected_request_is_kept_without_the_key(videos, transcripts, monkeypatch):
    monkeypatch.setenv(JUDGE_KEY, KEY)
    with served(lambda *_: (400, {"error": f"At most 2 images, {KEY}"})) as url:
        judge_videos(videos[:1], config(url), transcripts)
    (line,) = lines_of(transcripts)
    assert line["error"] == '{"error": "At most 2 images, [key]"}' and line["value"] is None


def test_an_endpoint_that_is_down_leaves_scores_missing_and_is_given_up(videos, transcripts):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    lines = []
    verdicts = judge_videos(videos, config(url, retries=0, repeats=10, parallel=1), transcripts, lines.append)
    assert all(verdict.score is None and len(verdict.missing) == 10 for verdict in verdicts.values())
    assert len(lines_of(transcripts)) == 8 and "32 of 40" in lines[-1]


def test_a_value_without_its_answer_does_not_count(videos, transcripts):
    with served(score_by_number) as url:
        judge_videos(videos[:2], config(url), transcripts)
        edited = [line | {"value": 5} for line in lines_of(transcripts)]
        transcripts.write_text("".join(json.dumps(line) + "\n" for line in edited))
        verdicts = judge_videos(videos[:2], config(url), transcripts)
    assert [verdict.score for verdict in verdicts.values()] == [0.0, 20.0]


def test_a_video_that_cannot_be_read_is_missing_and_the_others_are_judged(videos, transcripts, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(videos[0].path.read_bytes()[:-300])
    more = [JudgedVideo(name, tmp_path / f"{name}.mp4", "") for name in ("broken", "absent", "cut")]
    with served(score_by_number) as url:
        verdicts = judge_videos([*more, *videos], config(url), transcripts)
    assert list(verdicts) == ["broken", "absent", "cut", *(video.name for video in videos)]
    assert all(verdicts[video.name].score is None and verdicts[video.name].missing for video in more)
    assert verdicts["film_3"].score == 60.0 and len(lines_of(transcripts)) == 4


def test_requests_overlap_up_to_the_limit(videos, transcripts):
    together, arrived = threading.Barrier(2, timeout=10), []

    def answer(body, headers):
        together.wait()
        arrived.append(1)
        return score_by_number(body)

    with served(answer) as url:
        judge_videos(videos, config(url, parallel=2), transcripts)
    assert len(arrived) == 4


def test_two_videos_of_one_name_are_refused(videos, transcripts):
    with pytest.raises(ConfigError) as caught:
        judge_videos([videos[0], videos[0]], config("http://127.0.0.1:1/v1"), transcripts)
    assert (caught.value.key, caught.value.value) == ("videos", "film_0")


def test_without_an_address_there_is_no_judge(videos, transcripts):
    with pytest.raises(ConfigError) as caught:
        judge_videos(videos, JudgeConfig(), transcripts)
    assert caught.value.key == "judge.url" and not transcripts.exists()
