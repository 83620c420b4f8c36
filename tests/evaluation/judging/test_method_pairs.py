"""Methods are compared on films of the same prompt, and a win rate counts nothing that the judge did not say."""

import base64
import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from evaluation.judging.method_pairs import method_pairs, win_rate
from evaluation.judging.pairwise import PairVerdict, both_orders
from evaluation.video_tasks import VideoTask
from tests.fakes.commands import mistake, run_script
from tests.fakes.endpoint import served
from tests.fakes.judge_replies import completion, lines_of, scored, short_film, verdict
from tests.reports.self_contained import Page

PROMPTS = ("a red film", "a green film")


def task(method: str, name: str, prompt: str | None, index: int | None = None) -> VideoTask:
    return VideoTask(method, name, Path(f"{name}.mp4"), prompt, Path("rows"), index)


def names_of(pairs) -> list[tuple[str, str]]:
    return [(f"{a.method}{a.name}", f"{b.method}{b.name}") for a, b in pairs]


def test_the_nth_film_of_a_prompt_meets_the_nth_of_the_other_method_and_unknown_prompts_meet_by_name():
    tasks = [
        task("a", "1", "x"), task("a", "2", "x"), task("a", "3", "y"), task("a", "4", None), task("a", "5", None),
        task("b", "7", "x"), task("b", "8", "x"), task("b", "9", "x"), task("b", "4", None), task("b", "3", "z"),
        task("b", "0", "y", index=0),
    ]  # fmt: skip
    assert names_of(method_pairs(tasks)) == [("a1", "b7"), ("a2", "b8"), ("a4", "b4")]


def test_three_methods_are_three_comparisons_and_one_method_none():
    tasks = [task(method, "0", "x") for method in "abc"]
    assert names_of(method_pairs(tasks)) == [("a0", "b0"), ("a0", "c0"), ("b0", "c0")]
    assert method_pairs(tasks[:1]) == []


def test_a_tie_counts_half_and_a_missing_verdict_nothing():
    orders = [("first", "first"), ("first", "second"), ("second", "second"), ("first", "first"), (None, "first")]
    verdicts = {str(i): PairVerdict(both_orders(*both), both, ()) for i, both in enumerate(orders)}
    summary = win_rate(verdicts)
    assert summary["win_rate"]["mean"] == 2.5 / 4 and summary["consistency"]["mean"] == 3 / 4
    assert (summary["win_rate"]["missing"], summary["consistency"]["missing"]) == (1, 1)
    counts = ("wins", "ties", "losses", "missing")
    assert tuple(summary[name] for name in counts) == (2, 1, 1, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> str:
    """The value of videos= for two methods with a bright and a dark film of each prompt."""
    made = tmp_path_factory.mktemp("methods")
    for method, level in (("bright", 100), ("dark", 10)):
        (made / method).mkdir()
        for number, prompt in enumerate(PROMPTS):
            short_film(made / method / f"{number}.mp4", 9, level + 20 * number)
            (made / method / f"{number}.txt").write_text(prompt)
    return f"videos=[bright={made}/bright,dark={made}/dark]"


def pair_judge(asked: list[dict], broken: str = ""):
    """Prefer the video with the brightest picture, in any order; say nothing of the prompt `broken`."""

    def answer(body, headers):
        asked.append(body)
        if body["response_format"]["json_schema"]["name"] == "score":
            return 200, scored(4)
        parts = body["messages"][1]["content"]
        if broken and broken in parts[0]["text"]:
            return 200, completion("no JSON")
        pictures = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        brightest = max(pictures, key=lambda url: (bright(url), url))
        return 200, verdict("first" if pictures.index(brightest) < len(pictures) // 2 else "second")

    return answer


def bright(url: str) -> float:
    return Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L").getpixel((0, 0))


def test_the_command_compares_both_orders_and_puts_the_win_rate_into_json_table_and_page(folders, tmp_path, capsys):
    asked = []
    with served(pair_judge(asked)) as url:
        keys = [folders, f"out={tmp_path}", f"judge.url={url}", "judge.pairwise=true"]
        assert run_script("evaluate.py", *keys) == 0
        assert len(asked) == len(lines_of(tmp_path / "judge.jsonl")) == 4 + 2 * 2
        first = (tmp_path / "report.html").read_text()
        assert run_script("evaluate.py", *keys) == 0 and len(asked) == 8
    assert (tmp_path / "report.html").read_text() == first
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    (rate,) = evaluation["pairwise"]["methods"]
    assert (rate["first"], rate["second"], rate["wins"], rate["missing"]) == ("bright", "dark", 2, 0)
    assert (rate["win_rate"]["mean"], rate["consistency"]["mean"]) == (1.0, 1.0)
    assert [one["orders"] for one in evaluation["pairwise"]["verdicts"]] == [["first", "first"]] * 2
    means = {name: method["metrics"]["win_rate"]["mean"] for name, method in evaluation["methods"].items()}
    assert means == {"bright": 1.0, "dark": 0.0} and evaluation["rankings"]["win_rate"] == ["bright", "dark"]
    assert "bright over dark" in " ".join(Page(first).words)
    assert capsys.readouterr().out.count("bright over dark") == 2


def test_an_answer_that_cannot_be_read_leaves_its_pair_without_a_verdict(folders, tmp_path):
    with served(pair_judge([], broken=PROMPTS[0])) as url:
        keys = [folders, f"out={tmp_path}", f"judge.url={url}", "judge.pairwise=true"]
        assert run_script("evaluate.py", *keys) == 0
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    (rate,) = evaluation["pairwise"]["methods"]
    assert (rate["missing"], rate["wins"], rate["win_rate"]["count"]) == (1, 1, 1)
    values = [video["metrics"]["win_rate"] for video in evaluation["methods"]["bright"]["videos"]]
    assert values == [None, 1.0] and evaluation["judge"]["pairs"]["reasons"] == ["the content is no JSON"]


def test_the_budget_counts_scores_and_comparisons_together(folders, tmp_path):
    asked = []
    with served(pair_judge(asked)) as url:
        keys = [folders, f"out={tmp_path}", f"judge.url={url}", "judge.pairwise=true", "judge.parallel=1"]
        assert run_script("evaluate.py", *keys, "judge.most_calls=6") == 0 and len(asked) == 6
        (rate,) = json.loads((tmp_path / "evaluation.json").read_text())["pairwise"]["methods"]
        assert (rate["wins"], rate["missing"]) == (1, 1)
        assert run_script("evaluate.py", *keys) == 0 and len(asked) == 8


@pytest.mark.parametrize(
    "keys", [["videos={dark}", "judge.url=http://127.0.0.1:9/v1"], ["{both}"], ["{strangers}", "judge.url=http://h/v1"]]
)
def test_a_comparison_without_a_judge_a_second_method_or_a_common_prompt_is_refused(keys, folders, tmp_path, capsys):
    short_film(tmp_path / "strange" / "7.mp4")
    dark = folders.rpartition("=")[2].rstrip("]")
    given = {"dark": dark, "both": folders, "strangers": f"videos=[a={dark},b={tmp_path}/strange]"}
    line = mistake(
        capsys, "evaluate.py", *(one.format(**given) for one in keys), f"out={tmp_path}/out", "judge.pairwise=true"
    )
    assert line.startswith("judge.pairwise=") and not (tmp_path / "out" / "rows").exists()
