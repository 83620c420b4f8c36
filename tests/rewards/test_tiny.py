import pytest
import torch

from models.worlds.tiny_judge import judge
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video
from rewards.registry import make_reward
from rewards.reward import Clip
from rewards.reward_config import RewardConfig


def video(prompt: str, seed: int = 0) -> torch.Tensor:
    return sample_video(prompt, 12, torch.Generator().manual_seed(seed))


def score(name: str, prompt: str, pixels: torch.Tensor) -> float:
    return make_reward(name, RewardConfig())([Clip(prompt, pixels, torch.zeros(0))]).item()


def test_real_clips_are_flawless_to_the_judge_and_to_text_alignment():
    for prompt in PROMPTS[::9]:
        assert score("tiny_judge", prompt, video(prompt)) == score("text_alignment", prompt, video(prompt)) == 1


def test_scores_are_shares_of_the_judges_frames():
    prompt, pixels = PROMPTS[0], video(PROMPTS[0]).clone()
    pixels[:3] = video(PROMPTS[40])[:3]
    pixels[6] += 0.3 * torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))
    verdict = judge(pixels[None], [prompt])
    valid = sum(verdict.valid[0].tolist()) / 12
    right = sum(bool(verdict.colour_right[0, t]) and bool(verdict.shape_right[0, t]) for t in range(12)) / 12
    assert 0 < valid < 1 and 0 < right < 1
    assert score("tiny_judge", prompt, pixels) == pytest.approx(valid)
    assert score("text_alignment", prompt, pixels) == pytest.approx(right)


def test_frames_of_another_size_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"\[1, 2, 3, 16, 16\]"):
        score("tiny_judge", PROMPTS[0], torch.zeros(2, 3, 16, 16))


def test_standing_still_and_flicker_are_no_motion_to_the_judge():
    prompt = PROMPTS[0]
    real = video(prompt)
    assert score("tiny_motion", prompt, real) > 0.9
    still = real[:1].expand(12, 3, 12, 12)
    assert score("tiny_motion", prompt, still) == 0
    assert score("tiny_motion", prompt, still * torch.tensor([1.0, 0.8] * 6).view(12, 1, 1, 1)) == 0
