"""Keys of older releases keep working."""

import shutil
from dataclasses import asdict, replace

import pytest
import yaml

import settings
from cluster.config.renamed_keys import RENAMED, with_current_names
from cluster.config.run_config import Config
from cluster.config.scan_config import Scan
from cluster.runs.run_folder import RunFolder
from learner.stage_config import AdamWConfig, DmdConfig
from models.errors import ConfigError
from settings import compose
from settings.key_table import keys_of
from settings.scan_arguments import plan


def test_every_new_name_is_a_key_and_no_old_one_is():
    names = keys_of(Config).keys()
    assert set(RENAMED.values()) <= names and not names & RENAMED.keys()


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_on_the_command_line_sets_the_new_key(old, new):
    assert settings.load([f"{old}=0.25"]) == settings.load([f"{new}=0.25"]) != settings.load([])


def test_an_old_name_in_a_preset_sets_the_new_key(tmp_path, monkeypatch):
    shutil.copytree(settings.ROOT / "conf", tmp_path / "conf")
    own = "# @package _global_\ndmd: {student_lr: 0.25, grad_clip: 3.0}\node: {lr: 0.5}\n"
    (tmp_path / "conf/preset/own.yaml").write_text(own)
    monkeypatch.setattr(compose, "ROOT", tmp_path)
    config = settings.load(["preset=own", "dmd.grad_clip=4"])
    assert (config.dmd.optimizer.lr, config.dmd.optimizer.grad_clip, config.ode.optimizer.lr) == (0.25, 4.0, 0.5)


def test_a_scan_over_an_old_name_varies_the_new_key_in_folders_of_the_old_name():
    for arguments in (["dmd.student_lr=1e-4,2e-4"], ["scan.over={dmd.student_lr: [1e-4, 2e-4]}"]):
        _, trials = plan([*arguments, "scan.seeds=[0]"])
        assert [trial.config.dmd.optimizer.lr for trial in trials] == [1e-4, 2e-4]
        assert all("dmd.student_lr" in trial.config.run_dir for trial in trials)


def test_a_run_folder_with_old_names_in_its_config_is_the_same_run(tmp_path):
    config = Scan(run_dir=str(tmp_path))
    stored = asdict(config)
    for old, new in RENAMED.items():
        group, name = old.split(".")
        stored[group][name] = stored[group]["optimizer"][new.rpartition(".")[2]]
    for group in {old.partition(".")[0] for old in RENAMED}:
        del stored[group]["optimizer"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    RunFolder(tmp_path).claim(config)
    with pytest.raises(ConfigError):
        RunFolder(tmp_path).claim(replace(config, dmd=DmdConfig(optimizer=AdamWConfig(lr=0.5))))


def test_values_move_to_their_new_place_and_older_names_win():
    old = {
        "seed": 3,
        "dmd": {"steps": 2, "student_lr": 1e-3, "optimizer": {"lr": 5.0, "beta1": 0.5}},
        "ode": {"lr": 0.1},
    }
    assert with_current_names(old) == {
        "seed": 3, "dmd": {"steps": 2, "optimizer": {"lr": 1e-3, "beta1": 0.5}}, "ode": {"optimizer": {"lr": 0.1}},
    }  # fmt: skip
    assert old["dmd"]["student_lr"] == 1e-3
