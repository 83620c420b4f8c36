"""Pairs are shown in both orders, and only what both orders say counts."""

import json
from dataclasses import replace

import pytest

from evaluation.judging.agreement import swap_consistency
from evaluation.judging.judge_config import JudgeConfig
from evaluation.judging.pairwise import VideoPair, both_orders, judge_pairs, pair_seed
from evaluation.judging.video_judge import judge_videos
from models.errors import ConfigError
from models.fingerprint import file_digest
from tests.fakes.endpoint import served
from tests.fakes.judge_replies import completion, films, lines_of, scored, verdict


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Three pairs of films (0, 1), (2, 3), (4, 5), each of one prompt."""
    videos = [replace(video, prompt="a film") for video in films(tmp_path_factory.mktemp("films"), 6)]
    return [VideoPair(f"pair_{i}", *videos[2 * i : 2 * i + 2]) for i in range(3)]


def shown(body: dict) -> list[str]:
    """The pictures of a request, in the order of its two videos."""
    parts = body["messages"][1]["content"]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def test_a_judge_that_looks_at_the_videos_has_one_answer_in_both_orders(pairs, tmp_path):
    bodies = []

    def answer(body, headers):
        bodies.append(body)
        pictures = shown(body)
        half = len(pictures) // 2
        return 200, verdict("first" if pictures[:half] < pictures[half:] else "second")

    with served(answer) as url:
        verdicts = judge_pairs(pairs, JudgeConfig(url=url), tmp_path / "j")
        swapped = [VideoPair(pair.name, pair.second, pair.first) for pair in pairs]
        other = judge_pairs(swapped, JudgeConfig(url=url), tmp_path / "j")
    assert len(bodies) == 6 and len(lines_of(tmp_path / "j")) == 6
    for name, one in verdicts.items():
        assert one.better == one.orders[0] == one.orders[1] in ("first", "second")
        assert {one.better, other[name].better} == {"first", "second"}
    assert swap_consistency(verdicts).mean == 1.0
    for pair in pairs:
        own = [body for body in bodies if body["seed"] == pair_seed_of(pair)]
        half = len(shown(own[0])) // 2
        assert len(own) == 2 and shown(own[0])[half:] + shown(own[0])[:half] == shown(own[1])


def pair_seed_of(pair: VideoPair) -> int:
    return pair_seed([file_digest(pair.second.path), file_digest(pair.first.path)], 0)


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_judge_that_looks_at_the_order_prefers_nothing(pairs, tmp_path, name):
    with served(lambda *_: (200, verdict(name))) as url:
        verdicts = judge_pairs(pairs, JudgeConfig(url=url), tmp_path / "j")
    assert all(one.better == "tie" and set(one.orders) == {"first", "second"} for one in verdicts.values())
    assert swap_consistency(verdicts).mean == 0.0


@pytest.mark.parametrize(
    "bad", [(200, completion("the first")), (200, scored(4)), (200, verdict("neither")), (400, {})]
)
def test_a_pair_with_one_order_missing_has_no_verdict(pairs, tmp_path, bad):
    requests = []

    def answer(body, headers):
        requests.append(body)
        return bad if len(requests) % 2 else (200, verdict("first"))

    with served(answer) as url:
        verdicts = judge_pairs(pairs, JudgeConfig(url=url, parallel=1), tmp_path / "j")
    assert all(one.better is None and one.orders.count(None) == len(one.missing) == 1 for one in verdicts.values())
    assert swap_consistency(verdicts)[:3] == (None, None, None)


def test_scores_and_comparisons_share_a_file_of_transcripts(pairs, tmp_path):
    def answer(body, headers):
        form = body["response_format"]["json_schema"]["name"]
        return 200, scored(5) if form == "score" else verdict("tie")

    with served(answer) as url:
        config = JudgeConfig(url=url)
        scores = judge_videos([pairs[0].first, pairs[0].second], config, tmp_path / "j")
        verdicts = judge_pairs(pairs[:1], config, tmp_path / "j")
    assert [one.score for one in scores.values()] == [100.0, 100.0] and verdicts["pair_0"].better == "tie"
    assert sorted(json.dumps(line["value"]) for line in lines_of(tmp_path / "j")) == ['"tie"', '"tie"', "5", "5"]


@pytest.mark.parametrize(
    ("given", "swapped", "combined"),
    [
        ("first", "first", "first"), ("second", "second", "second"), ("tie", "tie", "tie"), ("first", "second", "tie"),
        ("first", "tie", "tie"), ("tie", "second", "tie"), (None, "first", None), ("tie", None, None),
        (None, None, None),
    ],
)  # fmt: skip
def test_both_orders_decide(given, swapped, combined):
    assert both_orders(given, swapped) == combined


def test_the_seed_of_a_pair_knows_no_order_and_fits_31_bits():
    seeds = {pair_seed([one, other], 3) for one, other in (("a", "b"), ("b", "a"))}
    assert len(seeds) == 1 and 0 <= seeds.pop() < 2**31
    assert pair_seed(["a", "b"], 3) != pair_seed(["a", "c"], 3) != pair_seed(["a", "c"], 4)


def test_pairs_of_two_prompts_or_one_name_are_refused_and_absent_videos_are_missing(pairs, tmp_path):
    config = JudgeConfig(url="http://127.0.0.1:9/v1")
    other = replace(pairs[0], second=replace(pairs[0].second, prompt="another"))
    for wrong in ([other], [pairs[0], pairs[0]]):
        with pytest.raises(ConfigError) as caught:
            judge_pairs(wrong, config, tmp_path / "j")
        assert (caught.value.key, caught.value.value) == ("pairs", "pair_0")
    absent = replace(pairs[0], first=replace(pairs[0].first, path=tmp_path / "absent.mp4"))
    verdicts = judge_pairs([absent], config, tmp_path / "j")
    assert verdicts["pair_0"].better is None and len(verdicts["pair_0"].missing) == 2
