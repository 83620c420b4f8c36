"""A Wan of random weights is a whole one: diffusers' pipeline makes a video of it, and so does generate.py."""

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline

from models.network_config import WAN_MINI
from models.network_sizes import parameters
from models.worlds.random_wan import PROMPTS, word_tokenizer
from tests.fakes.commands import mistake, run_script
from tests.fakes.generating import frames_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("mini") / "new" / "wan"
    assert run_script("models.worlds.make_mini", f"out={out}") == 0
    return out


def test_diffusers_makes_a_video_of_the_folder(folder):
    pipeline = WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    prompt = (folder / "prompts.txt").read_text().splitlines()[0]
    video = pipeline(
        prompt, height=64, width=96, num_frames=5, num_inference_steps=2, output_type="pt",
        generator=torch.Generator().manual_seed(0), max_sequence_length=WAN_MINI.text_len,
    ).frames  # fmt: skip
    assert video.shape == (1, 5, 3, 64, 96) and video.isfinite().all() and video.std() > 0.01


def test_generate_makes_a_video_of_the_folder_alone(folder, tmp_path):
    keys = ["preset=wan_mini", f"checkpoint={folder}", f"text_cache={tmp_path}/text", "seconds=0.5", "enlarge=1"]
    assert run_script("generate.py", *keys, f"prompt={PROMPTS[0]}", f"out={tmp_path}/x.mp4") == 0
    frames = frames_of(tmp_path / "x.mp4")
    assert len(frames) == 8 and frames[0].shape == (64, 96, 3)


def test_it_has_a_few_million_parameters_and_prompts_enough_for_a_run(folder):
    assert 2e6 < parameters(WAN_MINI) < 4e6
    prompts = (folder / "prompts.txt").read_text().splitlines()
    assert prompts == PROMPTS and len(set(prompts)) >= 24 and min(map(len, prompts)) >= 10


def test_its_tokenizer_knows_the_words_of_its_prompts_and_spells_others():
    tokenizer = word_tokenizer()
    assert all(len(tokenizer(prompt).input_ids) == len(prompt.split()) + 1 for prompt in PROMPTS)
    spelt = tokenizer("Zebra-42!").input_ids
    assert tokenizer.unk_token_id not in spelt and len(spelt) > 8


def test_weights_are_those_of_the_seed_and_nothing_is_overwritten(folder, tmp_path, capsys):
    for name, seed in (("again", 0), ("other", 1)):
        assert run_script("models.worlds.make_mini", f"out={tmp_path}/{name}", f"seed={seed}") == 0
    for file in folder.rglob("*.safetensors"):
        again, other = (tmp_path / name / file.relative_to(folder) for name in ("again", "other"))
        assert file.read_bytes() == again.read_bytes() != other.read_bytes()
    line = mistake(capsys, "models.worlds.make_mini", f"out={folder}")
    assert line.startswith(f"out={folder}: ")
    assert mistake(capsys, "models.worlds.make_mini").startswith("out: ")
    assert mistake(capsys, "models.worlds.make_mini", "out=/proc/x").startswith("out=/proc/x")
