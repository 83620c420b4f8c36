"""The proxy against the exact judge of the tiny world."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evaluation.stability.degradations import KINDS, degrade
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import HORIZON, sample_video
from reports.demo_report import demo_prompts
from tests.fakes.proxy_points import proxy_points, rank_agreement

DEMO = "LONGTAKE_DEMO"
"""Environment variable: the run folder of a whole `make demo`, the only place with students that are not shipped."""


def drifting_videos(name: str, severity: float, prompts: list[str], horizons: int) -> torch.Tensor:
    """Draw real videos of the tiny world that drift by a degradation."""
    generator = torch.Generator().manual_seed(0)
    videos = []
    for prompt in prompts:
        video = sample_video(prompt, horizons * HORIZON, generator)
        frames = (video * 255).round().byte().permute(0, 2, 3, 1).numpy()
        drifted = [torch.from_numpy(each.copy()) for each in degrade(frames, len(frames), KINDS[name], severity)]
        videos.append(torch.stack(drifted).permute(0, 3, 1, 2).float() / 255)
    return torch.stack(videos)


@pytest.mark.parametrize("name", ["noise", pytest.param("saturation_burn", marks=pytest.mark.proof)])
def test_videos_that_drift_at_their_own_pace_rank_alike(name):
    prompts = list(PROMPTS[::24])
    points = []
    for severity in (0.0, 0.3, 1.0):
        # The lengths behind the onset of the drift: before it every frame is valid, and ranks say nothing.
        points += proxy_points(drifting_videos(name, severity, prompts, 8), prompts)[-2:]
    assert rank_agreement(points) >= 0.9


@pytest.mark.proof
@pytest.mark.skipif(DEMO not in os.environ, reason=f"{DEMO} names no run folder of make demo")
def test_proxy_and_judge_agree_over_the_students_of_the_demo():
    points = []
    for name in ("ode", "prefix_1", "uniform"):
        videos = load_file(Path(os.environ[DEMO]) / name / "videos.safetensors")["video"].float() / 255
        points += proxy_points(videos, demo_prompts())
        print(name, points[-5:])
    assert rank_agreement(points) >= 0.9
