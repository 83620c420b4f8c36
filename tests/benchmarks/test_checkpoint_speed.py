"""What is timed is a whole checkpoint, written and read back, beside as many plain bytes."""

import json

import pytest
import torch

from benchmarks.checkpoint_speed import CheckpointSpeedOptions, SavedLearner, main, write_plain
from cluster.runs.checkpoints.stage_folder import StageFolder


def test_the_saved_learner_comes_back_as_it_was_and_has_the_bytes_of_the_plain_file(tmp_path):
    learner = SavedLearner(20)
    with StageFolder(tmp_path / "stage") as stage:
        stage.save(learner, 1)
        stage.close()
        expected = {group: {name: t.clone() for name, t in named.items()} for group, named in learner.groups.items()}
        for named in learner.groups.values():
            torch._foreach_zero_(list(named.values()))
        assert stage.restore(learner) is not None
    assert all(torch.equal(learner.groups[g][n], t) for g, named in expected.items() for n, t in named.items())
    write_plain(tmp_path / "plain", learner)
    assert (tmp_path / "plain").stat().st_size == learner.nbytes == pytest.approx(20e6, rel=0.2)


def test_there_is_a_line_for_each_quantity_and_nothing_stays_on_the_disk(tmp_path, capsys):
    main(CheckpointSpeedOptions(megabytes=20, repeats=2, folder=str(tmp_path)))
    lines = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    quantities = ("plain_write", "plain_read", "write", "restore", "held")
    assert list(lines) == [f"checkpoint.{name}" for name in quantities]
    assert all(line["value"] > 0 and line["repeats"] == 2 for line in lines.values())
    assert all(lines[f"checkpoint.{name}"]["limit"] > 0 for name in quantities[2:])
    assert not list(tmp_path.iterdir())
