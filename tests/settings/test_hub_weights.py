"""Reading a command line downloads nothing: the start of a run does, before it checks its files."""

import sys
from pathlib import Path

import huggingface_hub
import pytest

import settings
from cluster.launch import rehearse
from models.errors import ConfigError
from plan import read_plan
from settings.scan_arguments import plan

HUB = ["teacher=Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "init=hf://owner/name/x.safetensors"]


@pytest.fixture(autouse=True)
def unreachable(monkeypatch):
    """A hub whose every call is a fault of the caller."""

    def fail(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "HfApi", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)


def test_a_plan_names_a_repository_and_asks_no_hub():
    run = read_plan(["preset=wan_1_3b", "plan.learner_gpus=8", "stage=dmd", *HUB])
    assert [f"teacher={run.teacher}", f"init={run.init}"] == HUB


def test_planning_a_scan_asks_no_hub():
    scan, trials = plan([*HUB, "window=uniform,prefix", "scan.seeds=[0]"])
    assert {(t.config.teacher, t.config.init) for t in trials} == {(scan.teacher, scan.init)}
    assert f"teacher={scan.teacher}" == HUB[0]


def test_a_dry_run_notes_a_repository_and_asks_no_hub(tmp_path, capsys):
    assert rehearse(settings.load([f"run_dir={tmp_path}/run", "dry_run=true", HUB[0]])) == []
    assert HUB[0] in capsys.readouterr().err


def test_a_start_downloads_before_it_checks(tmp_path, monkeypatch):
    found = {}
    monkeypatch.setattr(
        sys.modules[settings.with_weights.__module__],
        "weights_path",
        lambda given, key: found.setdefault(key, tmp_path / key),
    )
    given = [f"run_dir={tmp_path}/run", "stage=dmd", "grpo.init=owner/name", "reward.learned.clip=openai/clip", *HUB]
    config = settings.with_weights(settings.load(given))
    assert {key: Path(value) for key, value in found.items()} == {
        "teacher": Path(config.teacher), "init": Path(config.init or ""), "grpo.init": Path(config.grpo.init or ""),
        "reward.learned.clip": Path(config.reward.learned.clip or ""),
    }  # fmt: skip
    with pytest.raises(ConfigError) as error:
        settings.prepare_run(settings.load(given), on_ray=False)
    assert error.value.key == "teacher" and str(error.value.value) == str(tmp_path / "teacher")
