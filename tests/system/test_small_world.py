"""train.py in another world than the tiny one: Wan's VAE, text encoder and networks, small and random."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import settings
import train
from cluster.launch import launch, preflight
from cluster.runs.stage_spec import inputs_of
from models.network_config import CONFIGS
from tests.fakes.commands import replaced
from tests.fakes.cut_off import run
from tests.fakes.small_world import CONFIG, NAME, PROMPTS, keys, save_small_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return save_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def small_network_is_known(monkeypatch):
    monkeypatch.setitem(CONFIGS, NAME, CONFIG)


def config_of(world: Path, run_dir: Path, *arguments: str):
    config = settings.load([*keys(world, run_dir), "cluster=inline", *arguments])
    preflight(config)
    inputs_of(config).prompts.prepare()
    return config


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    assert before.keys() == after.keys() and all(tensor.isfinite().all() for tensor in after.values())
    return all(not torch.equal(before[name], after[name]) for name in before)


def test_stages_ode_dmd_and_grpo_train_from_a_folder_of_diffusers_alone(world, tmp_path):
    config = config_of(world, tmp_path / "run", "stage=[ode,dmd,grpo]")
    launch(train.loop, config)
    start = load_file(world / "network.safetensors")
    students = [load_file(tmp_path / f"run/{stage}/student.safetensors") for stage in config.stages]
    assert all(moved(before, after) for before, after in zip([start, *students], students, strict=False))
    texts = {path.name for path in (tmp_path / "run_text").iterdir()}
    assert len(texts) == len(PROMPTS) + 1, "of each prompt one, and of the negative prompt"


@pytest.mark.parametrize("stage", ["dmd", "grpo"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights_bit_by_bit(world, tmp_path, stage):
    init = f"init={world}/network.safetensors" if stage == "dmd" else f"grpo.init={world}/network.safetensors"
    loop = getattr(train, stage)
    whole = config_of(world, tmp_path / "whole", f"stage={stage}", init)
    run(loop, whole, None)
    cut = config_of(world, tmp_path / "cut", f"stage={stage}", init)
    assert set(run(loop, cut, 2)) == {1, 2}
    assert set(run(loop, cut, None)) == {2}
    ends = [load_file(tmp_path / name / stage / "student.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """In which every process that Python starts knows the small network, those of Ray too."""
    (tmp_path / "known").mkdir()
    known = f"from models.network_config import CONFIGS, WanConfig\nCONFIGS[{NAME!r}] = {CONFIG!r}\n"
    (tmp_path / "known/sitecustomize.py").write_text(known)
    return os.environ | {"PYTHONPATH": f"{tmp_path}/known{os.pathsep}{settings.ROOT}"}


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_every_stage_trains_and_a_killed_run_goes_on(world, tmp_path, environment):
    longer = replaced(keys(world, tmp_path / "run"), "stage=[ode,dmd,grpo]", "dmd.steps=6")
    command = [sys.executable, "train.py", *longer]
    metrics = tmp_path / "run/metrics.jsonl"
    with subprocess.Popen(command, cwd=settings.ROOT, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        while killed.poll() is None:
            if (metrics.read_text() if metrics.exists() else "").count('"dmd"') >= 3:
                killed.send_signal(signal.SIGKILL)
                break
            time.sleep(0.05)  # leaves the processor to the run
        killed.wait(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(
        command, cwd=settings.ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert again.returncode == 0, again.stderr
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = Counter((line["stage"], line["step"]) for line in lines)
    assert {step for stage, step in steps if stage == "dmd"} == set(range(1, 7)) and max(steps.values()) <= 2
    assert not any(line.get("windows/refused") for line in lines)
    start = load_file(world / "network.safetensors")
    students = [load_file(tmp_path / f"run/{stage}/student.safetensors") for stage in ("ode", "dmd", "grpo")]
    assert all(moved(before, after) for before, after in zip([start, *students], students, strict=False))
