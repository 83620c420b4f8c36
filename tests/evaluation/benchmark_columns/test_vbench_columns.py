"""Scores are means over clips; nothing runs twice; a dimension without scores is missing, never 0."""

import json
import sys
from pathlib import Path

import pytest

from evaluation.benchmark_columns.benchmark_config import COLUMN_DIMENSIONS, VBenchConfig, check_vbench
from evaluation.benchmark_columns.vbench_columns import vbench_columns
from evaluation.video_tasks import VideoTask
from models.errors import ConfigError
from tests.fakes.films import moving_texture, write_film
from tests.fakes.small_encoders import save_clip

STUB = Path(__file__).parents[2] / "fakes" / "vbench_environment"
SECONDS = {"long": 9.0, "short": 3.5}
CLIPS = {"long": 5, "short": 2}


class StubRun:
    """Two videos, and a VBench of which the test decides the plan."""

    def __init__(self, folder, films, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.calls_path, self.lines = folder / "calls.jsonl", []
        monkeypatch.setenv("PYTHONPATH", str(STUB))
        self.tasks = []
        for film in films:
            path = folder / film.name
            path.write_bytes(film.read_bytes())
            self.tasks.append(VideoTask("a", path.stem, path, f"a cat, {path.stem}", folder / "rows"))

    def measure(self, tasks=None, plan=(), **keys):
        plan = dict(plan) | {"calls": str(self.calls_path)}
        self.monkeypatch.setenv("VBENCH_STUB", json.dumps(plan))
        config = VBenchConfig(python=sys.executable, device="cpu", **keys)
        columns = vbench_columns(tasks or self.tasks, config, self.folder / "out", self.lines.append)
        return {task.name: values for task, values in columns.items()}

    @property
    def calls(self):
        return (
            [json.loads(line) for line in self.calls_path.read_text().splitlines()] if self.calls_path.exists() else []
        )


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Write the two videos once."""
    folder = tmp_path_factory.mktemp("films")
    return [
        write_film(folder / f"{name}.mp4", moving_texture(int(8 * seconds), 1.0, (96, 128), seed), fps=8)
        for seed, (name, seconds) in enumerate(SECONDS.items())
    ]


@pytest.fixture
def stub_run(tmp_path, films, monkeypatch):
    return StubRun(tmp_path, films, monkeypatch)


def mean_score(name):
    return 100 * sum((i + 1) / 100 for i in range(CLIPS[name])) / CLIPS[name]


def test_a_video_scores_the_mean_of_its_clips_in_every_dimension(stub_run):
    columns = stub_run.measure()
    for name, values in columns.items():
        moving = 100 * -(-CLIPS[name] // 2) / CLIPS[name]
        expected = {f"vbench.{dimension}": mean_score(name) for dimension in COLUMN_DIMENSIONS}
        expected |= {"vbench.dynamic_degree": moving, "paper.dynamic_degree": moving}
        expected |= {"paper.framewise_quality": mean_score(name), "paper.text_alignment": None}
        expected |= {"paper.temporal_quality": (3 * mean_score(name) + moving / 2) / 3.5}
        assert values == pytest.approx(expected)
    assert [call["dimension"] for call in stub_run.calls] == list(COLUMN_DIMENSIONS)
    assert stub_run.lines == []


def test_vbench_is_called_for_custom_input_with_the_prompt_of_each_clip(stub_run):
    (stub_run.folder / "weights").mkdir()
    stub_run.measure(dimensions=["overall_consistency"], cache=str(stub_run.folder / "weights"))
    (call,) = stub_run.calls
    assert (call["mode"], call["local"], call["device"]) == ("custom_input", True, "cpu")
    assert call["cache"] == str(stub_run.folder / "weights")
    prompts = list(call["clips"].values())
    assert {prompt: prompts.count(prompt) for prompt in prompts} == {"a cat, long": 5, "a cat, short": 2}


def test_a_second_call_runs_nothing_and_a_new_video_alone(stub_run):
    two = ["motion_smoothness", "dynamic_degree"]
    before = stub_run.measure(stub_run.tasks[:1], dimensions=two)
    count = len(stub_run.calls)
    assert stub_run.measure(stub_run.tasks[:1], dimensions=two) == before
    assert len(stub_run.calls) == count
    both = stub_run.measure(dimensions=two)
    assert both["long"] == before["long"]
    assert {len(call["clips"]) for call in stub_run.calls[count:]} == {CLIPS["short"]}


def test_another_prompt_repeats_the_dimensions_of_prompts_alone(stub_run):
    two = ["motion_smoothness", "overall_consistency"]
    stub_run.measure(dimensions=two)
    count = len(stub_run.calls)
    changed = [VideoTask("a", task.name, task.path, "a dog", task.results) for task in stub_run.tasks]
    stub_run.measure(changed, dimensions=two)
    assert [call["dimension"] for call in stub_run.calls[count:]] == ["overall_consistency"]


def test_a_copy_in_another_method_is_measured_once(stub_run):
    copy = VideoTask("b", "copy", stub_run.tasks[1].path, stub_run.tasks[1].prompt, stub_run.folder / "rows_b")
    columns = stub_run.measure([*stub_run.tasks, copy], dimensions=["motion_smoothness"])
    assert columns["copy"] == columns["short"]
    assert len(stub_run.calls[0]["clips"]) == sum(CLIPS.values())


def test_without_a_prompt_only_the_dimensions_of_prompts_are_missing(stub_run):
    bare = [VideoTask("a", task.name, task.path, None, task.results) for task in stub_run.tasks]
    for values in stub_run.measure(bare).values():
        assert {name for name, value in values.items() if value is None} == {
            "vbench.overall_consistency", "paper.text_alignment",
        }  # fmt: skip


@pytest.mark.parametrize("fault", ["fail", "half", "nan", "short"])
def test_a_dimension_that_fails_is_missing_by_name_and_made_up_for_by_the_next_call(stub_run, fault):
    dimensions = ["aesthetic_quality", "imaging_quality"]
    columns = stub_run.measure(plan={fault: ["imaging_quality"]}, dimensions=dimensions)
    for name, values in columns.items():
        assert values["vbench.aesthetic_quality"] == pytest.approx(mean_score(name))
        assert values["vbench.imaging_quality"] is None and values["paper.framewise_quality"] is None
    (line,) = stub_run.lines
    assert "imaging_quality" in line and "\n" not in line
    columns = stub_run.measure(dimensions=dimensions)
    assert columns["long"]["vbench.imaging_quality"] == pytest.approx(mean_score("long"))
    assert [call["dimension"] for call in stub_run.calls] == [*dimensions, "imaging_quality"]


def test_a_dimension_that_hangs_is_ended_and_the_next_one_runs(stub_run):
    columns = stub_run.measure(
        plan={"hang": ["aesthetic_quality"]}, dimensions=["aesthetic_quality", "imaging_quality"], timeout_s=4.0
    )
    assert columns["long"]["vbench.aesthetic_quality"] is None
    assert columns["long"]["vbench.imaging_quality"] == pytest.approx(mean_score("long"))
    assert len(stub_run.lines) == 1


def test_what_a_dimension_prints_goes_to_its_log(stub_run):
    stub_run.measure(plan={"fail": ["imaging_quality"]}, dimensions=["imaging_quality"])
    assert "out of memory" in (stub_run.folder / "out/vbench/imaging_quality.log").read_text()


def test_a_damaged_video_is_missing_and_the_others_are_measured(stub_run):
    stub_run.tasks[0].path.write_bytes(stub_run.tasks[0].path.read_bytes()[:300])
    columns = stub_run.measure(dimensions=["motion_smoothness"])
    assert columns["long"]["vbench.motion_smoothness"] is None
    assert columns["short"]["vbench.motion_smoothness"] == pytest.approx(mean_score("short"))
    assert len(stub_run.lines) == 1


def test_clips_stay_only_as_long_as_a_score_is_missing(stub_run):
    stub_run.measure(plan={"fail": ["imaging_quality"]}, dimensions=["imaging_quality"])
    clips = stub_run.folder / "out/vbench/clips"
    assert len(list(clips.iterdir())) == 2
    stub_run.measure(dimensions=["imaging_quality"])
    assert list(clips.iterdir()) == []


def test_without_vbench_one_line_and_no_columns(stub_run):
    columns = vbench_columns(stub_run.tasks, VBenchConfig(), stub_run.folder / "out", stub_run.lines.append)
    assert columns == {task: {} for task in stub_run.tasks}
    assert len(stub_run.lines) == 1
    assert not (stub_run.folder / "out").exists()


def test_the_clip_score_completes_text_alignment_and_needs_no_vbench(stub_run):
    clip = str(save_clip(stub_run.folder / "clip"))
    both = stub_run.measure(dimensions=["overall_consistency"], clip=clip)
    config = VBenchConfig(clip=clip, device="cpu")
    alone = vbench_columns(stub_run.tasks, config, stub_run.folder / "alone", stub_run.lines.append)
    for task in stub_run.tasks:
        values = both[task.name]
        assert alone[task]["vbench.clip_score"] == pytest.approx(values["vbench.clip_score"], abs=0.05)
        mean = (values["vbench.clip_score"] + values["vbench.overall_consistency"]) / 2
        assert values["paper.text_alignment"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"python": "/nowhere/python"}, "vbench.python"),
        ({"python": sys.executable}, "vbench.python"),
        ({"cache": "/nowhere"}, "vbench.cache"),
    ],
)
def test_an_environment_without_vbench_is_rejected_before_anything_starts(monkeypatch, keys, wrong):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(ConfigError) as error:
        check_vbench(VBenchConfig(**keys))
    assert error.value.key == wrong


def test_an_environment_with_vbench_passes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(STUB))
    check_vbench(VBenchConfig(python=sys.executable))


def test_an_unknown_dimension_is_rejected():
    with pytest.raises(ConfigError) as error:
        VBenchConfig(dimensions=["colour"])
    assert error.value.key == "vbench.dimensions"
