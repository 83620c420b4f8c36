"""A run that evaluates its students: it ends by patience, inline and on Ray, with everything written."""

import json
from pathlib import Path

import pytest

import settings
import train
from cluster.launch import launch, preflight

# No frame of these videos equals the one before, which no later student can improve: nothing but patience ends a run.
ENDLESS = [
    "preset=smoke", "stage=dmd", "dmd.steps=100000", "init=assets/tiny/teacher.safetensors", "evaluation.every=1",
    "evaluation.prompts=1", "evaluation.videos=1", "evaluation.frames=36", "evaluation.metric=still",
]  # fmt: skip


def ended(run_dir, *arguments):
    """Run until the stage ends; returns the lines of its log."""
    config = settings.load([*ENDLESS, f"run_dir={run_dir}", *arguments])
    preflight(config)
    launch(train.loop, config)
    assert Path(run_dir, "dmd/student.safetensors").is_file() and Path(run_dir, "dmd/best.safetensors").is_file()
    return [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]


def test_inline_a_stage_ends_after_the_update_at_which_patience_is_used_up(tmp_path, caplog):
    lines = ended(tmp_path / "run", "cluster=inline", "evaluation.patience=2")
    assert [(line["step"], line["evaluation/step"], line["evaluation/since_best"]) for line in lines] == [
        (1, 1, 1), (2, 2, 2)
    ]  # fmt: skip
    assert sum("evaluation.patience=2" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.ray
@pytest.mark.proof
def test_on_ray_two_ranks_end_together_and_everything_that_was_evaluated_is_written(tmp_path):
    lines = ended(tmp_path / "run", "cluster=ray", "cluster.learner_ranks=2", "evaluation.patience=1")
    evaluated = [line for line in lines if "evaluation/step" in line]
    assert [line["evaluation/since_best"] for line in evaluated] == [0, 1]
    assert evaluated[-1] == lines[-1] and lines[-1]["step"] < 100_000
    assert lines[-1]["evaluation/failed"] == 0
    for line in evaluated:
        folder = tmp_path / "run/evaluation/dmd" / f"step_{line['evaluation/step']:06d}"
        assert {path.name for path in folder.iterdir()} == {"0000.mp4", "0000.jsonl", "summary.json"}
        assert json.loads((folder / "summary.json").read_text())["value"] == line["evaluation/still"] == 0
