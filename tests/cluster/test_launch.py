"""Checks before a run starts, each by its key; a rejected run leaves no folder."""

from itertools import count
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import settings
from cluster.launch import preflight, rehearse
from cluster.run_errors import RunFailed
from cluster.runs.run_folder import RunFolder
from learner.stage_config import Source
from models.checkpoints.weight_files import save_weights
from models.errors import ConfigError
from models.wan import device_faults


def checked(run_dir, *arguments):
    config = settings.load([f"run_dir={run_dir}", "preset=smoke", *arguments])
    preflight(config)
    return config


def test_a_run_folder_remembers_its_config_and_takes_the_same_run_again(tmp_path):
    config = checked(tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["dmd"]["steps"] == config.dmd.steps
    checked(tmp_path / "run", "cluster=inline", "wandb.mode=offline")


def test_a_run_folder_of_another_config_is_refused_and_left_as_it_was(tmp_path):
    checked(tmp_path / "run")
    before = (tmp_path / "run/config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"dmd\.optimizer\.lr=0\.0001\b.*\b0\.1\b") as caught:
        checked(tmp_path / "run", "dmd.student_lr=0.1")
    assert caught.value.key == "run_dir"
    assert (tmp_path / "run/config.yaml").read_bytes() == before


def test_a_folder_with_other_things_in_it_is_never_taken_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        checked(tmp_path)
    assert caught.value.key == "run_dir" and [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_the_free_memory_cannot_hold_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0.7e9))
    with pytest.raises(ConfigError) as caught:
        checked(tmp_path / "run", "stage=dmd", f"init={tmp_path}/not/here")
    assert (caught.value.key, caught.value.value) == ("student.model", "tiny") and not (tmp_path / "run").exists()


def test_missing_and_truncated_weights_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(ValueError, match=r"teacher=.*none\.safetensors"):
        checked(tmp_path / "run", f"teacher={tmp_path}/none.safetensors", "stage=ode")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(ValueError, match=r"init=.*cut\.safetensors"):
        checked(tmp_path / "run", f"init={tmp_path}/cut.safetensors", "stage=dmd")
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_the_network_are_refused_before_anything_starts(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"init=.*other\.safetensors"):
        checked(tmp_path / "run", f"init={tmp_path}/other.safetensors", "stage=dmd")
    assert not (tmp_path / "run").exists()


def test_a_damaged_result_of_a_finished_stage_is_refused(tmp_path):
    checked(tmp_path / "run")
    (tmp_path / "run/ode/checkpoints").mkdir(parents=True)
    (tmp_path / "run/ode/student.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"run_dir=.*ode/student\.safetensors"):
        checked(tmp_path / "run", "stage=dmd")


@pytest.mark.parametrize("argument", ["student.height=24", "student.horizon_frames=24"])
def test_what_the_tiny_world_cannot_honour_is_refused(tmp_path, argument):
    with pytest.raises(ValueError, match=rf"^{argument.partition('=')[0]}"):
        checked(tmp_path / "run", argument)


def test_two_commands_are_never_at_work_in_one_folder(tmp_path):
    folder = RunFolder(checked(tmp_path / "run").run_dir)
    with folder.locked(), pytest.raises(RunFailed, match=r"^run_dir="), folder.locked():
        pass
    with folder.locked():
        pass


def test_a_second_teacher_in_a_folder_whose_students_had_another_is_refused(tmp_path):
    checked(tmp_path / "run", "stage=ode")
    (tmp_path / "run/ode").mkdir()
    with pytest.raises(ValueError, match=r"run_dir=.*ode"):
        checked(tmp_path / "run")


def test_a_run_folder_that_is_a_file_or_has_lost_its_config_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        checked(tmp_path / "file")
    assert caught.value.key == "run_dir" and (tmp_path / "file").read_text() == "mine"
    checked(tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
        checked(tmp_path / "run")
    assert caught.value.key == "run_dir"


def test_a_run_keeps_the_teacher_it_has_trained_when_a_later_command_leaves_that_stage_out(tmp_path):
    config = checked(tmp_path / "run")
    save_weights(load_file(settings.ROOT / "assets/tiny/teacher.safetensors"), config.teacher_path, {"seed": 0})
    assert checked(tmp_path / "run", "stage=[ode,dmd]").teacher_path == config.teacher_path


def test_stage_dmd_without_a_student_says_where_to_get_one(tmp_path):
    with pytest.raises(ValueError, match="init"):
        checked(tmp_path / "run", "stage=dmd")


WATCHED = "sentinel.metrics=[exposure_drift]"


ON_A_GPU = ["reward.flow=raft", "cluster.reward_gpus=1"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([WATCHED, "reward.terms={rewards.nothing.Here:1.0}"], r"rewards\.nothing\.Here"),
        ([WATCHED, "reward.terms={math.pi:1.0}"], r"math\.pi"),
        ([WATCHED, "reward.flow=raft", "cluster.reward_gpus=1"], "reward.raft_weights"),
        ([WATCHED, "reward.flow=raft", "reward.raft_weights=none.pth"], "cluster.reward_gpus"),
        ([WATCHED, *ON_A_GPU, "reward.raft_weights=none.pth"], r"raft_weights=.*none\.pth.*raft_large"),
        ([WATCHED, "grpo.init=none.safetensors"], r"grpo\.init=.*none\.safetensors"),
    ],
)
def test_what_stage_grpo_lacks_is_found_before_anything_starts(tmp_path, arguments, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        checked(tmp_path / "run", "stage=grpo", *arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_stage_grpo_starts_from_the_shipped_student_or_from_its_own_runs_stage_dmd(tmp_path):
    config = checked(tmp_path / "run", "stage=grpo", WATCHED)
    assert config.grpo_init_path == settings.ROOT / "assets/tiny/student_uniform.safetensors"
    save_weights(load_file(config.grpo_init_path), tmp_path / "run/dmd/student.safetensors", {"seed": 0})
    (tmp_path / "run/dmd/checkpoints").mkdir()
    again = checked(tmp_path / "run", "stage=grpo", WATCHED)
    assert again.grpo_init_path == tmp_path / "run/dmd/student.safetensors"


def test_the_critic_of_stage_grpo_is_the_one_that_knows_its_student_and_where_there_is_none_that_is_said(
    tmp_path, capsys
):
    runs = (tmp_path / f"run_{i}" for i in count())

    def critic(*arguments):
        return checked(next(runs), "stage=grpo", WATCHED, *arguments).grpo_critic_source

    shipped = settings.ROOT / "assets/tiny"
    assert critic() == Source(shipped / "critic_uniform.safetensors", "grpo.critic")
    own = tmp_path / "own/student.safetensors"
    save_weights(load_file(shipped / "student_uniform.safetensors"), own, {})
    assert not capsys.readouterr().err
    assert critic(f"grpo.init={own}") == Source(shipped / "teacher.safetensors", "teacher")
    assert str(own) in capsys.readouterr().err
    assert critic(f"grpo.init={own}", "grpo.dmd_weight=0", "grpo.kl=1")
    assert not capsys.readouterr().err, "there is no critic to be told of"
    save_weights(load_file(shipped / "critic_uniform.safetensors"), own.with_name("critic.safetensors"), {})
    assert critic(f"grpo.init={own}") == Source(own.with_name("critic.safetensors"), "grpo.critic")
    with pytest.raises(ValueError, match=r"grpo\.critic=.*none\.safetensors"):
        critic("grpo.critic=none.safetensors")
    torch.save({"generator": load_file(own), "critic": load_file(shipped / "teacher.safetensors")}, tmp_path / "sf.pt")
    assert critic(f"grpo.init={own}", f"grpo.critic={tmp_path}/sf.pt").part == "critic"
    torch.save({"generator": load_file(own)}, tmp_path / "without.pt")
    with pytest.raises(ValueError, match=r"grpo\.critic=.*without\.pt.*generator"):
        critic(f"grpo.critic={tmp_path}/without.pt")


def test_a_dry_run_names_a_driver_that_this_machine_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(device_faults, "_driver_version", lambda: None)
    lines = rehearse(settings.load([f"run_dir={tmp_path}/run", "preset=wan_1_3b", "stage=dmd"]))
    assert [line for line in lines if line.startswith("cluster.rank_gpus=1: ")]
    assert not [line for line in rehearse(settings.load([f"run_dir={tmp_path}/run"])) if line.startswith("cluster.")]


def test_a_dry_run_refuses_files_that_are_here_and_names_those_that_are_not(tmp_path):
    def lines(*arguments):
        return rehearse(settings.load([f"run_dir={tmp_path}/run", *arguments]))

    shipped = settings.ROOT / "assets/tiny/student_uniform.safetensors"
    assert lines("preset=tiny", "stage=dmd", f"init={shipped}") == []
    (line,) = lines("preset=tiny", "stage=dmd", f"init={tmp_path}/none.safetensors")
    assert line.startswith(f"init={tmp_path}/none.safetensors: ")
    wan = [line for line in lines("preset=wan_1_3b", "stage=dmd") if not line.startswith("cluster.")]
    assert [line.partition("=")[0] for line in wan][:2] == ["teacher", "stage"] and len(wan) == 3
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    for arguments in (["teacher"], ["init", "stage=dmd"], ["base"]):
        with pytest.raises(ConfigError) as error:
            lines("preset=tiny", f"{arguments[0]}={other}", *arguments[1:])
        assert error.value.key == arguments[0]
    with pytest.raises(ConfigError) as error:
        lines(
            "preset=wan_1_3b",
            "stage=dmd",
            "init=x",
            f"prompts={tmp_path}/p.txt",
            f"vae={other}",
            f"text_encoder={other}",
        )
    assert error.value.key == "text_encoder" and not (tmp_path / "run").exists()
