import base64
import json
import math
import re
from dataclasses import replace
from io import BytesIO

import numpy
import pytest
import torch
from PIL import Image

from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import HORIZON, sample_video
from reports.demo_report import demo_evaluation, judge_method
from reports.run_report import MethodResult, summary_headline, summary_table, write_picture, write_report, write_summary
from tests.reports.self_contained import read_alone

SEGMENTS = 16
TITLES = {
    "ode": "ODE initialisation: before distillation",
    "prefix_1": "Self-Forcing: windows of the first horizon",
    "uniform": "Self-Forcing++: windows drawn uniformly",
}


def make_arms() -> list[MethodResult]:
    """Real videos, and the same getting darker and darker."""
    prompts, generator = list(PROMPTS[::9]), torch.Generator().manual_seed(0)
    real = torch.stack([sample_video(prompt, SEGMENTS * HORIZON, generator) for prompt in prompts])
    shade = torch.linspace(0, 1, SEGMENTS * HORIZON)[:, None, None, None]
    videos = {"ode": real * (1 - 0.4 * shade), "prefix_1": real * (1 - 0.7 * shade), "uniform": real}
    return [judge_method(name, TITLES[name], video, prompts) for name, video in videos.items()]


@pytest.fixture(scope="module")
def arms() -> list[MethodResult]:
    return make_arms()


def summarise(folder, arms) -> dict:
    return write_summary(
        folder / "summary.json",
        commit="0123abc",
        seconds={"ode": 61.5, "uniform": 120},
        settings={"rollout": {"frames": 96}, "seed": 0, "init": None},
        arms=arms,
    )


def page(folder, arms) -> str:
    summary = summarise(folder, arms)
    write_report(folder / "report.html", summary, arms, demo_evaluation(arms, summary["settings"], summary["commit"]))
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def html(tmp_path_factory, arms) -> str:
    return page(tmp_path_factory.mktemp("report"), arms)


def judged(validity: dict[str, float], dynamics: float = 0.6, first_dynamics: float = 0.6) -> dict:
    """A summary with nothing in it but what a headline is about."""
    methods = {}
    for name, last in validity.items():
        flat = [0.0] * SEGMENTS
        methods[name] = {
            "title": TITLES[name],
            "videos": 32,
            "validity": [1.0] * (SEGMENTS - 1) + [last],
            "dynamic_degree": [first_dynamics] + [dynamics] * (SEGMENTS - 1),
            "exposure_drift": flat,
            "frozen_share": flat,
        }
    return {"methods": methods}


def test_the_summary_has_its_keys_and_round_trips(tmp_path, arms):
    summary = summarise(tmp_path, arms)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["commit"] == "0123abc" and summary["seconds"]["ode"] == 61.5
    assert summary["settings"]["rollout"] == {"frames": 96}
    for arm in arms:
        method = summary["methods"][arm.name]
        assert method["videos"] == len(arm.prompts)
        assert {key: method[key] for key in arm.metrics} == arm.metrics
        assert all(len(method[key]) == SEGMENTS for key in arm.metrics)
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_the_report_is_one_file_that_needs_no_network(html):
    read_alone(html)
    assert len(html) < 4_000_000


def test_the_report_tells_every_method_and_every_number_of_the_table(html, arms):
    page = read_alone(html)
    words = " ".join(page.words)
    for arm in arms:
        assert arm.title in words
        for key in ("validity", "exposure_drift", "dynamic_degree", "frozen_share"):
            for segment in (1, 2, 4, 8, 16):
                assert any(value == pytest.approx(arm.metrics[key][segment - 1], abs=1e-9) for value in page.values)
    for told in (
        "0123abc",
        "1 min 02 s",
        "rollout.frames",
        "16\u00d7",
        "0.75\u00a0s",
        "1. Self-Forcing++, 2. ODE initialisation, 3.",
    ):
        assert told in words


def test_the_mean_over_videos_is_the_number_of_the_summary(arms):
    evaluation = demo_evaluation(arms, {}, "0123abc")
    assert json.loads(json.dumps(evaluation)) == evaluation
    for arm in arms:
        method = evaluation["methods"][arm.name]
        assert [video["prompt"] for video in method["videos"]] == arm.prompts
        for name, cell in method["metrics"].items():
            key, segment = name.split(".")
            assert cell["mean"] == pytest.approx(arm.metrics[key][int(segment) - 1], abs=1e-9)
            assert [v["curves"][key][int(segment) - 1] for v in method["videos"]] == [
                v["metrics"][name] for v in method["videos"]
            ]
    assert evaluation["rankings"]["exposure_drift.16"] == ["uniform", "ode", "prefix_1"]


def test_a_sheet_holds_the_pixels_of_the_videos(html, arms):
    first = re.search(r'data-sheet="data:image/png;base64,([^"]+)"', html).group(1)
    sheet = numpy.asarray(Image.open(BytesIO(base64.b64decode(first))))
    frames = sheet.reshape(3, 12, 64, 12, 3).transpose(0, 2, 4, 1, 3).reshape(192, 3, 12, 12)
    assert (frames == (arms[0].videos[0] * 255).round().byte().numpy()).all()


def test_every_picture_of_the_report_is_described(html, arms):
    alts = read_alone(html).alts
    assert len(alts) == len(arms) * len(arms[0].prompts) * 5
    assert f"{PROMPTS[0]}, {TITLES['uniform']}, at 16x" in alts and all(alts)


def test_the_same_input_makes_the_same_files(tmp_path, html, arms):
    assert page(tmp_path, arms) == html
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, arms)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_prompt_is_text_even_if_it_looks_like_a_tag(tmp_path, arms):
    prompts = ['<script>alert("x")</script>', *arms[0].prompts[1:]]
    text = page(tmp_path, [replace(arm, prompts=prompts) for arm in arms])
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def headline(uniform, prefix, dynamics):
    return summary_headline(judged({"prefix_1": prefix, "uniform": uniform}, dynamics))


def verdict(uniform, prefix, dynamics):
    """Leave the numbers of a headline out."""
    return re.sub(r"[\d.]+", "", headline(uniform, prefix, dynamics))


def test_the_headline_has_the_numbers_of_both_methods():
    assert re.findall(r"\d+", headline(0.98, 0.41, 0.6))[:4] == ["12", "16", "98", "41"]


@pytest.mark.parametrize(
    ("case", "alike"),
    [
        ((0.98, 0.41, 0.6), (0.96, 0.30, 0.7)),
        ((0.41, 0.98, 0.6), (0.30, 0.91, 0.6)),
        ((0.97, 0.95, 0.6), (0.92, 0.91, 0.6)),
        ((0.70, 0.30, 0.6), (0.60, 0.20, 0.6)),
        ((0.98, 0.41, 0.1), (0.97, 0.30, 0.2)),
    ],
    ids=["held", "worse", "equal", "better, not held", "held, slowing"],
)
def test_each_outcome_has_a_verdict_of_its_own(case, alike):
    cases = [(0.98, 0.41, 0.6), (0.41, 0.98, 0.6), (0.97, 0.95, 0.6), (0.70, 0.30, 0.6), (0.98, 0.41, 0.1)]
    assert [other for other in cases if verdict(*other) == verdict(*case)] == [case]
    assert verdict(*alike) == verdict(*case)


def test_the_headline_rounds_nothing_up_to_all_frames():
    assert "99.9 %" in summary_headline(judged({"prefix_1": 0.4, "uniform": 0.9996}))


def test_the_headline_of_one_method_compares_nothing():
    assert summary_headline(judged({"ode": 0.5})).count("%") == 1


def test_a_video_that_never_moved_has_a_headline():
    assert summary_headline(judged({"prefix_1": 0.4, "uniform": 1.0}, 0.0, 0.0)).startswith("After 12 s")


def test_the_table_lists_every_method_under_every_metric(tmp_path, arms):
    lines = summary_table(summarise(tmp_path, arms)).splitlines()
    assert all(line.isascii() and len(line) <= 80 for line in lines)
    assert [word for line in lines for word in line.split() if re.fullmatch(r"\d+x", word)] == [
        f"{k}x" for k in (1, 2, 4, 8, 16)
    ]
    for arm in arms:
        assert any(arm.title in line for line in lines)
        rows = [line.split()[1:] for line in lines if line.startswith(f"  {arm.name} ")]
        assert len(rows) == 4
        assert rows[0] == [f"{arm.metrics['validity'][segment - 1]:.3f}" for segment in (1, 2, 4, 8, 16)]


def test_the_picture_is_a_card_that_brings_its_own_background(tmp_path, arms):
    write_picture(tmp_path / "picture.png", arms)
    with Image.open(tmp_path / "picture.png") as image:
        assert image.width > 600 * len(arms)
        assert image.getpixel((0, 0))[3] == 0 and image.getpixel((40, 40))[3] == 255


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused(arms, value):
    broken = arms[2].metrics | {"exposure_drift": [0.0] * (SEGMENTS - 1) + [value]}
    with pytest.raises(ValueError, match='"uniform": exposure_drift'):
        replace(arms[2], metrics=broken)


def test_lists_of_different_length_are_refused(arms):
    with pytest.raises(ValueError, match='"uniform": '):
        replace(arms[2], metrics=arms[2].metrics | {"validity": [1.0]})


def test_methods_that_cannot_be_compared_are_refused(tmp_path, arms):
    with pytest.raises(ValueError, match=r'"uniform" .*prompts'):
        summarise(tmp_path, [arms[0], replace(arms[2], prompts=arms[2].prompts[::-1])])
    with pytest.raises(ValueError, match='"ode"'):
        summarise(tmp_path, [arms[0], arms[0]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("videos", "facts"),
    [
        (lambda video: video[:3], r"\b3\b.*\b8\b"),
        (lambda video: video[:, 1:], r"\b191\b.*\b16\b.*\b12\b"),
        (lambda video: video + 1, r"outside \[0, 1\]"),
        (lambda video: video * math.nan, r"outside \[0, 1\]"),
    ],
)
def test_videos_that_do_not_fit_are_refused(arms, videos, facts):
    with pytest.raises(ValueError, match=f'"ode": .*{facts}'):
        replace(arms[0], videos=videos(arms[0].videos))
