"""An evaluation during training: the same weights give the same numbers and files, whatever was there before."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from cluster.evaluations.best_student import judged_metrics, read_best
from cluster.evaluations.student_evaluation import StudentEvaluator
from evaluation.video_evaluation import read_rows
from models.checkpoints.weight_files import stored_tensors
from models.records import Weights
from models.video_stream import stream_frames
from models.worlds.world_config import SHIPPED_STUDENT
from tests.fakes.evaluated import evaluation_of

TWO = ["evaluation.prompts=2", "evaluation.videos=1", "evaluation.metric=validity"]


@pytest.fixture(scope="module")
def trained():
    return Weights(7, dict(stored_tensors(SHIPPED_STUDENT)))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, trained):
    """Spec and metrics of an evaluation of the shipped student, and the state of torch's generator around it."""
    spec = evaluation_of(tmp_path_factory.mktemp("run"), *TWO)
    before = torch.get_rng_state()
    metrics = StudentEvaluator(spec)(4, trained)
    return spec, metrics, torch.equal(before, torch.get_rng_state())


def test_a_student_that_shows_its_prompts_is_judged_valid_in_every_metric_of_the_world(evaluated):
    _, metrics, _ = evaluated
    assert metrics["evaluation/validity"] > 0.9 and metrics["evaluation/step"] == metrics["evaluation/best_step"] == 4
    assert metrics["evaluation/since_best"] == 0
    assert {f"evaluation/{name}" for name in judged_metrics(False)} <= metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())


def test_an_evaluation_draws_nothing_from_the_generator_that_training_may_use(evaluated):
    _, _, untouched = evaluated
    assert untouched


def test_the_folder_has_rows_of_every_video_and_the_films_that_are_kept(evaluated):
    spec, metrics, _ = evaluated
    folder = spec.folder(4)
    assert {path.name for path in folder.iterdir()} == {"0000.mp4", "0000.jsonl", "0001.jsonl", "summary.json"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [row["second"] for row in read_rows(folder / "0001.jsonl")] == [0, 1, 2]
    assert sum(1 for _ in stream_frames(folder / "0000.mp4")) == 36
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["value"] == metrics["evaluation/validity"] and summary["step"] == 4 and summary["version"] == 7
    assert [video["prompt"] for video in summary["videos"]] == list(spec.prompts) and len(set(spec.prompts)) == 2
    assert summary["metrics"] == {
        name: metrics[f"evaluation/{name}"] for name in judged_metrics(False) if f"evaluation/{name}" in metrics
    }


def test_the_best_weights_are_those_of_the_version(evaluated, trained):
    spec, metrics, _ = evaluated
    assert read_best(spec) == (4, metrics["evaluation/validity"])
    stored = load_file(spec.best_file)
    assert stored.keys() == trained.tensors.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in trained.tensors.items())


def test_the_same_step_again_replaces_the_remains_of_a_killed_one_and_gives_the_same_bytes(
    tmp_path, evaluated, trained
):
    spec, metrics, _ = evaluated
    again = evaluation_of(tmp_path, *TWO)
    folder = again.folder(4)
    shutil.copytree(spec.folder(4), folder)
    (folder / "0000.jsonl").write_text("of a learner that was rolled back")
    for step in (2, 4):
        partial = folder.with_name(f".step_{step:06d}.partial")
        partial.mkdir()
        (partial / "0000.mp4").write_text("half")
    assert StudentEvaluator(again)(4, trained) == metrics
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    for path in folder.iterdir():
        assert path.read_bytes() == (spec.folder(4) / path.name).read_bytes(), path.name


def test_a_worse_student_later_leaves_the_best_and_counts(tmp_path, trained):
    spec = evaluation_of(tmp_path, *TWO)
    evaluator = StudentEvaluator(spec)
    evaluator(0, trained)
    broken = Weights(8, {name: torch.zeros_like(tensor) for name, tensor in trained.tensors.items()})
    later = [StudentEvaluator(spec)(2, broken), evaluator(4, broken)]
    assert [metrics["evaluation/since_best"] for metrics in later] == [1, 2]
    assert {metrics["evaluation/best_step"] for metrics in later} == {0}


def test_videos_in_which_the_metric_has_no_value_are_no_evaluation(tmp_path, trained):
    spec = evaluation_of(tmp_path, "evaluation.metric=of_another_world")
    with pytest.raises(ValueError, match="of_another_world"):
        StudentEvaluator(spec)(0, trained)
    assert not spec.best_file.exists() and not spec.folder(0).exists()
