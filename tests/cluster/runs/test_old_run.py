"""A run folder made by commit 25145b3 still resumes: its keys, its checkpoints of learner and supply, its draws."""

import json
import shutil
from pathlib import Path

import pytest

import settings
import train
from cluster.launch import launch, preflight
from models.network_config import CONFIGS, WanConfig
from tests.golden.smoke_losses import losses

FOLDER = Path(__file__).with_name("run_of_25145b3")
"""Stopped at step 2 of stage dmd and at step 2 of stage grpo; losses.json has what that commit measured afterwards."""
SMALL = WanConfig(
    patch_size=(1, 4, 4), num_attention_heads=1, attention_head_dim=12, in_channels=3, out_channels=3, text_dim=32,
    text_len=12, freq_dim=16, ffn_dim=16, num_layers=1,
)  # fmt: skip
KEYS = ["preset=smoke", "cluster=inline", "student.model=fixture", "rollout.windows=4", "buffer.windows=16",
        "dmd.batch_size=2", "rollout.batch=1"]  # fmt: skip


@pytest.mark.slow
def test_a_run_of_commit_25145b3_resumes_in_the_middle_of_two_stages_with_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, "fixture", SMALL)
    folder = tmp_path / "run"
    shutil.copytree(FOLDER, folder)
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("assets/", f"{settings.ROOT}/assets/"))
    config = settings.load([*KEYS, f"run_dir={folder}"])
    preflight(config)
    launch(train.loop, config)
    resumed, expected = losses(folder), json.loads((FOLDER / "losses.json").read_text())
    assert [(row["stage"], row["step"]) for row in resumed] == [("dmd", 3), ("dmd", 4), ("grpo", 3), ("grpo", 4)]
    for row, before in zip(resumed, expected, strict=True):
        del row["stage"], before["stage"]
        assert row == pytest.approx(before, rel=1e-4, abs=1e-6, nan_ok=True), f"step {row['step']}"
