import pytest
import torch

from evaluation.adversarial_clips import textured_wall
from rewards.dynamic_degree import DynamicDegree, soft_dynamic_degree
from rewards.reward import Clip
from rewards.reward_config import RewardConfig


def pan(speed: int, frames: int = 7) -> torch.Tensor:
    wall = torch.from_numpy(textured_wall((80, 128), 0)).permute(2, 0, 1)
    return torch.stack([wall.roll(speed * t, 2)[:, 40:104, 40:168] for t in range(frames)])


def score(pixels: torch.Tensor, **keys) -> float:
    return DynamicDegree(RewardConfig(**keys))([Clip("", pixels, torch.zeros(0))]).item()


def test_dynamics_equal_the_soft_count_written_slowly():
    speeds, threshold = [0.0, 3.0, 6.0, 30.0], 6 / 256 * 256
    expected = sum(s**2 / (s**2 + threshold**2) for s in speeds) / 4
    assert soft_dynamic_degree(torch.tensor(speeds), 256).item() == pytest.approx(expected)
    assert soft_dynamic_degree(torch.tensor([6.0]), 256).item() == pytest.approx(0.5)


def test_dynamics_grow_with_speed_from_0_at_rest_and_equal_the_formula_at_a_known_one():
    rest, slow, fast = (score(pan(speed)) for speed in (0, 1, 4))
    assert rest < 1e-3 < slow < fast < 1
    threshold = 6 / 256 * 64  # frames two apart move two times as far
    assert slow == pytest.approx(2**2 / (2**2 + threshold**2), abs=0.08)


def test_the_stride_says_how_far_apart_frames_of_a_pair_are():
    assert score(pan(1), dynamic_stride=4) == pytest.approx(score(pan(4), dynamic_stride=1), abs=0.03)


def test_a_clip_without_a_pair_tells_nothing():
    assert torch.tensor(score(pan(1, 2), dynamic_stride=2)).isnan()
