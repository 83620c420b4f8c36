"""What stage grpo gains: the arithmetic, and (`make proofs`) the tiny world on two seeds."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import settings
from benchmarks import grpo_gain, grpo_picture, ratio_error
from benchmarks.grpo_gain import SHIPPED, compared, measured, real_videos, videos_of
from models.wan.network import Wan


def test_a_gap_is_closed_by_the_share_of_the_way_to_real_videos_and_the_rest_is_held_against_the_start():
    before = {"reward": 0.4, "flow": 2.0, "dynamic_degree": 0.5, "validity": 0.9}
    after = {"reward": 0.45, "flow": 1.8, "dynamic_degree": 0.6, "validity": 0.88}
    gains = grpo_gain.compared(after, before, {"reward": 0.6})
    assert gains == pytest.approx(
        {"gap_closed": 0.25, "flow_kept": 0.9, "dynamic_degree_kept": 1.2, "validity_change": -0.02}
    )


@pytest.mark.parametrize(
    ("arguments", "key"),
    [([], "after"), (["after=nowhere.safetensors"], "after")],
)
def test_a_student_that_is_not_there_is_refused_before_anything_is_measured(arguments, key, monkeypatch):
    monkeypatch.setattr(grpo_gain, "measured", lambda *_: pytest.fail("minutes were spent first"))
    with pytest.raises(ValueError, match=f"^{key}"):
        grpo_gain.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["a=x.safetensors"], "out"),
        (["out=x.txt", "a=x.safetensors"], "out=x.txt"),
        (["out=/no/such/folder/x.png", "a=x.safetensors"], "out=/no/such/folder/x.png"),
        (["out=x.png", "a=nowhere.safetensors"], "a=nowhere.safetensors"),
    ],
)
def test_a_picture_that_cannot_be_made_is_refused_before_anything_is_measured(arguments, key, monkeypatch):
    monkeypatch.setattr(grpo_picture, "videos_of", lambda *_: pytest.fail("minutes were spent first"))
    with pytest.raises(ValueError, match=f"^{key}"):
        grpo_picture.main(arguments)


def test_the_replay_comes_nearer_to_the_record_with_burn_in_until_it_is_exact():
    config = settings.load(["stage=grpo"])
    student = Wan(config.student.wan).eval()
    short, full = (
        ratio_error.errors(student, config, ratio_error.groups(student, config, burn_in), "ppo").max()
        for burn_in in (0, ratio_error.BURN_IN[-1])
    )
    assert full <= 1e-6 < short


@pytest.mark.proof
@pytest.mark.parametrize("seed", [0, 1])
def test_in_the_tiny_world_rewards_rise_and_nothing_that_nobody_rewards_pays_for_it(seed, tmp_path):
    command = [sys.executable, "train.py", "preset=tiny", "stage=grpo", f"seed={seed}", f"run_dir={tmp_path}/run"]
    started = time.monotonic()
    shown = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True, timeout=3600)
    assert shown.returncode == 0, shown.stderr
    seconds = time.monotonic() - started
    print(f"seed {seed}: {seconds:.0f} s")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    clipped = [line["policy/clipped"] for line in lines if "policy/clipped" in line]
    assert sum(clipped) / len(clipped) > 0.01, "the clip acts"
    assert seconds < 480
    config = settings.load([])
    began = videos_of(Path(settings.ROOT, SHIPPED), config)
    after = measured(videos_of(tmp_path / "run/grpo/student.safetensors", config), config, began)
    gains = compared(after, measured(began, config, began), measured(real_videos(config), config, began))
    print(gains)
    assert gains["gap_closed"] >= 0.25
    assert gains["flow_kept"] >= 0.9
    assert gains["dynamic_degree_kept"] >= 0.95
    assert gains["validity_change"] >= -0.01
