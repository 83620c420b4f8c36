"""The CLIP score of a clip against cosines taken by transformers itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from models.errors import ConfigError
from rewards.learned.clip_reward import spaced_frames
from rewards.learned_config import LearnedConfig
from rewards.registry import make_reward
from rewards.reward import Clip
from rewards.reward_config import RewardConfig
from tests.fakes.small_encoders import save_clip


def test_the_score_is_the_mean_cosine_of_its_frames_with_the_prompt(tmp_path):
    folder = save_clip(tmp_path / "clip")
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    config = RewardConfig(learned=LearnedConfig(clip=str(folder), device="cpu", frames=5))
    score = make_reward("clip_score", config)([Clip("a red fox", pixels, torch.zeros(0))])
    network = CLIPModel.from_pretrained(folder)
    pictures = [(frame.permute(1, 2, 0) * 255).round().byte().numpy() for frame in pixels]
    inputs = AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    inputs |= AutoTokenizer.from_pretrained(folder)(["a red fox"], return_tensors="pt")
    with torch.no_grad():
        answer = network(**inputs)
    assert score.item() == pytest.approx((answer.image_embeds @ answer.text_embeds.T).mean().item(), abs=1e-5)


@given(st.integers(1, 40), st.integers(1, 12))
def test_frames_are_spaced_evenly_in_order_and_end_with_the_last(frames, count):
    levels = torch.arange(frames) / 255
    clip = Clip("", levels[:, None, None, None].expand(frames, 3, 2, 2), torch.zeros(0))
    chosen = spaced_frames(clip, count)[:, 0, 0, 0].tolist()
    assert len(chosen) == min(frames, count) and chosen[-1] == frames - 1
    assert chosen == sorted(set(chosen))


def test_a_clip_that_is_not_there_names_its_key():
    with pytest.raises(ConfigError) as error:
        make_reward("clip_score", RewardConfig(learned=LearnedConfig(clip="nowhere", device="cpu")))
    assert error.value.key == "reward.learned.clip"
