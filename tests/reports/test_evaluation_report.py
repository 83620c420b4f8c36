"""The page of an evaluation: numbers of evaluation.json and nothing else, for any number of methods and videos."""

import json
import re

import pytest

from evaluation.second_curves import CURVES
from evaluation.video_tasks import Skipped
from reports.charts import STYLES
from reports.evaluation_report import SHOWN, write_evaluation_report
from reports.page import number_text
from tests.fakes.commands import run_script
from tests.reports.judged import judge_folders, moving_square, write_tensor
from tests.reports.self_contained import read_alone

UNSEEN = 'a <script>alert("x")</script> & more'


def squares(folder, count, fade=0.0, seconds=3):
    write_tensor(
        folder / "v.safetensors", [moving_square(8 * seconds, 16, 16 + i, fade)[:, :, :16] for i in range(count)]
    )
    return folder


def table_values(evaluation):
    """Every number that the table of the page must hold, row by row."""
    return [
        cell[key]
        for name in evaluation["metrics"]
        for method in evaluation["methods"].values()
        for cell in [method["metrics"][name]]
        if cell["mean"] is not None
        for key in ("mean", "low", "high")
    ]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    folders = {"steady": squares(folder / "a", 6), 'a<b>&"fade': squares(folder / "b", 6, 0.8)}
    (folder / "a" / "v.txt").write_text("\n".join([UNSEEN, *"23456"]))
    skipped = (Skipped("steady", "bad<i>.mp4", "it has no frames & no sound"),)
    return judge_folders(folders, folder / "out", skipped)


def test_the_page_needs_nothing_outside_it_and_holds_every_number_of_the_evaluation_in_order(judged):
    evaluation, _, text = judged
    page = read_alone(text)
    assert page.values == table_values(evaluation) and len(page.values) > 100
    words = " ".join(page.words)
    for name in evaluation["metrics"]:
        for method in evaluation["methods"].values():
            mean = method["metrics"][name]["mean"]
            assert mean is None or number_text(mean) in words
    assert "0123abc" in words and "title" in words and "Trial: 12 videos, 36" in words


def test_names_prompts_and_reasons_are_text_even_if_they_look_like_tags(judged):
    _, _, text = judged
    page = read_alone(text)
    assert page.tags.count("script") == 2 and not set(page.tags) & {"i", "fade"}
    assert text.count("<script>alert") == 0
    words = " ".join(page.words)
    for said in ("a<model>", 'a<b>&"fade', UNSEEN, "bad<i>.mp4", "it has no frames & no sound"):
        assert said in words


def test_only_a_ranking_of_the_evaluation_is_marked(judged):
    evaluation, _, text = judged
    ranked = [name for name, order in evaluation["rankings"].items() if order]
    refused = [name for name, order in evaluation["rankings"].items() if not order]
    assert "luma.worst" in ranked and evaluation["rankings"]["luma.worst"][0] == "steady"
    assert "cuts" in refused and "no_repeat" in refused
    assert text.count('class="best ') == len(ranked)
    assert text.count(">no ranking: ") == len(refused)
    neither = [name for name, metric in evaluation["metrics"].items() if metric["best"] not in ("low", "high")]
    assert text.count(">no ranking: neither end is better") == len(neither)


def test_each_method_shows_its_first_videos_side_by_side_with_frames_of_doubling_seconds(judged):
    _, tasks, text = judged
    page = read_alone(text)
    assert page.tags.count("canvas") == 2 * SHOWN
    assert page.tags.count("img") == 2 * SHOWN * 3, "at 1 s, at 2 s and the last one"
    assert text.count('<g data-view="') == len(CURVES) * (1 + SHOWN), (
        "each curve has a view of all videos and of each shown one"
    )
    assert len(tasks) == 12


def test_the_same_evaluation_makes_the_same_page(judged, tmp_path):
    evaluation, tasks, text = judged
    write_evaluation_report(tmp_path / "again.html", evaluation, tasks)
    assert (tmp_path / "again.html").read_text() == text


@pytest.mark.parametrize("methods", [1, 8])
def test_one_video_of_each_of_one_to_eight_methods_has_a_page_without_a_ranking(methods, tmp_path):
    folders = {f"m{i}": squares(tmp_path / f"m{i}", 1, i / 10) for i in range(methods)}
    evaluation, _, text = judge_folders(folders, tmp_path / "out")
    page = read_alone(text)
    assert page.values == table_values(evaluation)
    assert page.tags.count("canvas") == methods and 'class="best ' not in text and 'class="band' not in text
    measured = evaluation["methods"]["m0"]["metrics"]
    ordered = [name for name, metric in evaluation["metrics"].items() if metric["best"] and measured[name]["count"]]
    told = text.count(">no ranking: one video gives no interval")
    assert told == (0 if methods == 1 else len(ordered)) and len(ordered) > 20
    assert set(re.findall(r'class="line tone-(\d)', text)) == {str(i) for i in range(methods)}
    assert len(STYLES) >= 8 and len({(style.light, style.dashes) for style in STYLES}) == len(STYLES)


def test_what_cannot_be_measured_is_a_gap_and_counted(tmp_path):
    write_tensor(tmp_path / "a" / "one_frame.safetensors", [moving_square(1, 16, 16)])
    write_tensor(tmp_path / "a" / "ten_seconds.safetensors", [moving_square(80, 16, 16)])
    write_tensor(tmp_path / "b" / "one_frame.safetensors", [moving_square(1, 16, 16)])
    evaluation, _, text = judge_folders({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "out")
    page = read_alone(text)
    assert evaluation["methods"]["b"]["metrics"]["motion.worst"]["mean"] is None
    assert page.values == table_values(evaluation)
    words = " ".join(page.words)
    assert "no ranking: a method has no value" in words and "1 without a value" in words


def test_the_command_writes_the_page_and_lists_on_it_what_it_could_not_judge(tmp_path, capsys):
    for method, fade in (("a", 0.0), ("b", 0.5)):
        squares(tmp_path / method, 2, fade)
    (tmp_path / "b" / "broken.mp4").write_bytes(b"no film")
    videos, out = f"[a={tmp_path}/a,b={tmp_path}/b]", tmp_path / "out"
    assert run_script("evaluate.py", f"videos={videos}", f"out={out}", "tensor_fps=8") == 1
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    page = read_alone((tmp_path / "out" / "report.html").read_text())
    assert page.values == table_values(evaluation) and page.tags.count("canvas") == 4
    assert "broken.mp4" in page.words and str(tmp_path / "out" / "report.html") in capsys.readouterr().out


def test_a_video_that_was_removed_since_is_named_with_the_reason(tmp_path):
    folder = squares(tmp_path / "a", 1)
    evaluation, tasks, _ = judge_folders({"a": folder}, tmp_path / "out")
    (folder / "v.safetensors").unlink()
    write_evaluation_report(tmp_path / "report.html", evaluation, tasks)
    page = (tmp_path / "report.html").read_text()
    assert "not shown: " in page and "<canvas" not in page and "<table" in page


def test_each_metric_at_each_horizon_is_on_the_page_next_to_that_of_the_whole(tmp_path):
    squares(tmp_path / "a", 2, 0.5)
    squares(tmp_path / "b", 1, 0.5, seconds=1)
    folders = {"long": tmp_path / "a", "short": tmp_path / "b"}
    evaluation, _, text = judge_folders(folders, tmp_path / "out", horizons=(2.0, 1.0, 60.0))
    assert list(evaluation["methods"]["long"]["horizons"]) == ["1", "2"]
    page = read_alone(text)
    values = []
    for name in evaluation["metrics"]:
        if evaluation["methods"]["long"]["horizons"]["2"][name]["mean"] is None:
            continue  # nothing to show by horizon
        for method in evaluation["methods"].values():
            cells = [method["horizons"].get(end, {}).get(name) for end in ("1", "2")] + [method["metrics"][name]]
            values += [
                cell[key] for cell in cells if cell and cell["mean"] is not None for key in ("mean", "low", "high")
            ]
    assert page.values == table_values(evaluation) + values and len(values) > 300


def test_what_rounding_leaves_is_shown_as_zero_and_large_numbers_with_one_decimal():
    texts = [number_text(value) for value in (6.9e-18, 0.0, -0.0004, 0.0042, 0.25, 9.9994, 71.693, -12.34)]
    assert texts == ["0.000", "0.000", "-4.0e-04", "0.0042", "0.250", "9.999", "71.7", "-12.3"]
