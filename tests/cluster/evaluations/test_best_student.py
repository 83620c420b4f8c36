"""The best student: chosen by the metric's own direction, whole after a kill, found again by the next command."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cluster.evaluations.best_student import check_metric, ending, keep_if_best, read_best, since_best
from models.checkpoints.weight_files import verify_weights
from models.errors import ConfigError
from tests.fakes.evaluated import evaluation_of, result
from tests.fakes.killed_child import run_killed


def weights(value):
    return {"w": torch.full((4,), float(value))}


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """Evaluations by metric, of which a test takes a copy with a run folder of its own."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: evaluation_of(folder, f"evaluation.metric={name}") for name in ("luma.worst", "validity")}


@pytest.mark.parametrize(("metric", "better"), [("luma.worst", min), ("validity", max)])
@settings(max_examples=25)
@given(values=st.lists(st.integers(0, 4).map(lambda quarter: quarter / 4), min_size=1, max_size=6))
def test_the_file_holds_the_first_of_the_best_values_in_the_direction_of_the_metric(
    tmp_path_factory, specs, metric, better, values
):
    spec = replace(specs[metric], run_dir=str(tmp_path_factory.mktemp("run")))
    for step, value in enumerate(values):
        best = keep_if_best(spec, step, value, weights(step))
    assert best == read_best(spec) == (values.index(better(values)), better(values))
    assert load_file(spec.best_file)["w"].tolist() == [best.step] * 4
    assert verify_weights(spec.best_file, "run_dir")


def test_a_best_of_another_measurement_does_not_count(tmp_path):
    keep_if_best(evaluation_of(tmp_path), 2, 0.1, weights(2))
    for other in ("evaluation.metric=contrast.worst", "evaluation.frames=48", "evaluation.prompts=2"):
        assert read_best(evaluation_of(tmp_path, other)) is None
    assert read_best(evaluation_of(tmp_path, "evaluation.patience=3")) == (2, 0.1)


def test_evaluations_since_the_best_are_those_on_disk_up_to_the_step(tmp_path):
    spec = evaluation_of(tmp_path)
    best = keep_if_best(spec, 4, 0.1, weights(4))
    for step in (2, 4, 6, 8, 30):
        spec.folder(step).mkdir(parents=True)
        (spec.folder(step) / "summary.json").write_text("{}")
    (spec.folder(10).parent / ".step_000010.partial").mkdir()
    assert [since_best(spec, step, best) for step in (4, 6, 8, 10, 12)] == [0, 1, 2, 3, 3]


def test_a_kill_at_any_moment_leaves_the_old_best_or_the_new_one_whole(tmp_path):
    spec = evaluation_of(tmp_path)
    seen, killed, operation = set(), True, 0
    while killed:
        own = replace(spec, run_dir=f"{tmp_path}/{operation}")
        keep_if_best(own, 2, 0.5, weights(2))
        operation += 1

        def better(acknowledge, own=own):
            acknowledge(keep_if_best(own, 4, 0.25, weights(4)).step)

        killed, acknowledged = run_killed(better, operation, None)
        best = read_best(own)
        assert best in ((2, 0.5), (4, 0.25)) and best.step >= acknowledged
        assert load_file(own.best_file)["w"].tolist() == [best.step] * 4
        assert verify_weights(own.best_file, "run_dir")
        seen.add((killed, best.step))
    assert {(True, 2), (False, 4)} <= seen, "no kill came before the new one was whole"


def test_the_stage_ends_exactly_where_patience_is_used_up(tmp_path):
    spec = evaluation_of(tmp_path, "evaluation.patience=3")
    assert [ending(spec, result(9, 0.5, count)) is None for count in range(5)] == [True, True, True, False, False]
    assert ending(evaluation_of(tmp_path), result(9, 0.5, 1000)) is None


@pytest.mark.parametrize(
    ("name", "in_wan_world", "seconds", "key"),
    [
        ("luma.wurst", False, 3.0, "evaluation.metric"),
        ("luma.slope", False, 3.0, "evaluation.metric"),
        ("validity", True, 3.0, "evaluation.metric"),
        ("luma.worst", False, 2.0, "evaluation.frames"),
    ],
)
def test_a_metric_that_cannot_choose_is_refused(tmp_path, name, in_wan_world, seconds, key):
    keys = evaluation_of(tmp_path, f"evaluation.metric={name}").keys
    with pytest.raises(ConfigError) as error:
        check_metric(keys, in_wan_world, seconds)
    assert error.value.key == key


@pytest.mark.parametrize(
    ("name", "in_wan_world", "seconds"),
    [("validity", False, 0.75), ("validity.worst", True, 2.1), ("dynamic_degree", True, 1.0)],
)
def test_a_metric_that_can_choose_is_accepted(tmp_path, name, in_wan_world, seconds):
    check_metric(evaluation_of(tmp_path, f"evaluation.metric={name}").keys, in_wan_world, seconds)
