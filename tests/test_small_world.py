"""train.py in another world than the tiny one: Wan's VAE, text encoder and networks, small and random."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import settings
import train
from cluster.launch import launch, preflight
from cluster.prompts import prepare_prompts
from models.config import CONFIGS
from tests.cut_off import run
from tests.small_world import CONFIG, NAME, PROMPTS, keys, save_small_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return save_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def small_network_is_known(monkeypatch):
    monkeypatch.setitem(CONFIGS, NAME, CONFIG)


def config_of(world: Path, run_dir: Path, *arguments: str):
    config = settings.load([*keys(world, run_dir), "cluster=inline", *arguments])
    preflight(config)
    prepare_prompts(config)
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
