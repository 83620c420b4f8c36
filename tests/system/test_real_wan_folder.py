"""A folder in Wan2.1's formats goes through every stage on Ray, and back into diffusers and generate.py."""

import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file

import settings
from cluster.runs.run_folder import RunFolder
from models.network_config import WAN_MINI
from tests.fakes.commands import run_script
from tests.fakes.generating import frames_of

HEIGHT, WIDTH = 64, 96
SIZES = [
    "preset=wan_1_3b", "student.model=wan_mini", f"student.height={HEIGHT // 8}", f"student.width={WIDTH // 8}",
    "rollout.frames=42", "ode.pairs=8", "ode.first_pairs=6", "ode.batch_size=2", "ode.steps=3", "dmd.steps=2",
    "dmd.batch_size=2", "dmd.ema_start=1", "grpo.steps=3", "grpo.groups=2", "grpo.critic_warmup=1", "sentinel.every=2",
    "sentinel.prompts=2", "checkpoint.every=1",
]  # fmt: skip
"""Fewer and smaller: all else is the preset's, its frames, horizons, noise levels, rates, bfloat16 and clip too."""
MACHINE = ["cluster=laptop", "rollout.compile=false", "learner.compile=false"]
"""No GPU, and no minutes of compiling on two cores."""


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
def test_a_real_folder_goes_from_ode_to_grpo_to_diffusers_and_to_generate(tmp_path):
    folder, run = tmp_path / "wan", tmp_path / "run"
    assert run_script("models.worlds.make_mini", f"out={folder}") == 0
    command = [
        sys.executable, "train.py", *SIZES, *MACHINE, "stage=[ode,dmd,grpo]", f"teacher={folder}",
        f"prompts={folder}/prompts.txt", f"run_dir={run}", f"text_cache={tmp_path}/text",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    stages = [load_file(folder / "transformer/diffusion_pytorch_model.safetensors")]
    stages += [load_file(RunFolder(run).stage(stage).result) for stage in ("ode", "dmd", "grpo")]
    for before, after in pairwise(stages):
        assert before.keys() == after.keys() and all(tensor.isfinite().all() for tensor in after.values())
        assert any(not torch.equal(before[name], after[name]) for name in before)
    rounds = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"grpo"' in line]
    errors = [line["policy/replay_error_max"] for line in rounds if "policy/replay_error_max" in line]
    clip = settings.load(SIZES).grpo.clip
    assert errors and max(errors) < clip / 2, "the preset passes its own guard in its own arithmetic"
    assert all(math.isfinite(line["reward/continuity/mean"]) for line in rounds)

    converted, prompt = tmp_path / "transformer", (folder / "prompts.txt").read_text().splitlines()[0]
    assert run_script("convert.py", f"source={run}/grpo/student.safetensors", f"out={converted}") == 0
    pipeline = WanPipeline.from_pretrained(folder, transformer=WanTransformer3DModel.from_pretrained(converted))
    video = pipeline(
        prompt, height=HEIGHT, width=WIDTH, num_frames=9, num_inference_steps=2, output_type="pt",
        max_sequence_length=WAN_MINI.text_len,
    ).frames  # fmt: skip
    assert video.shape == (1, 9, 3, HEIGHT, WIDTH) and video.isfinite().all() and video.std() > 0.01

    keys = [*SIZES[:4], f"checkpoint={converted}", f"vae={folder}", f"text_encoder={folder}", "enlarge=1"]
    keys += [f"text_cache={tmp_path}/text", "seconds=1", f"prompt={prompt}", f"out={tmp_path}/x.mp4"]
    assert run_script("generate.py", *keys) == 0
    frames = frames_of(tmp_path / "x.mp4")
    assert len(frames) == 16 and frames[0].shape == (HEIGHT, WIDTH, 3)
