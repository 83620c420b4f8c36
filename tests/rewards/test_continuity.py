import torch

from models.worlds.tiny_world import PROMPTS, sample_video, to_latents, to_pixels
from rewards.reward_config import RewardConfig
from rewards.scorer import Scorer

VIDEOS, FRAMES, WINDOW = 12, 36, 12
TINY = RewardConfig(window_frames=WINDOW, upsample=8, top_share=0.2, motion_offset=0.5)


def mean_of(videos: torch.Tensor) -> float:
    """Mean composite of what follows the first window, which is the reference."""
    scorer, scores = Scorer(TINY, ["continuity"], to_pixels), []
    for prompt, latents in zip(PROMPTS[::6], to_latents(videos), strict=True):
        first, later = latents[:WINDOW], latents[None, WINDOW:]
        scores += scorer.score(prompt, later, first, first).values["continuity"][0]
    return sum(scores) / len(scores)


def test_in_the_tiny_world_too_every_spoiled_clip_scores_below_half_of_a_real_one():
    generator = torch.Generator().manual_seed(0)
    real = torch.stack([sample_video(prompt, FRAMES, generator) for prompt in PROMPTS[::6]])
    later = torch.arange(WINDOW, FRAMES)
    back_and_forth = torch.where(later % 2 == 0, later - 4, later)
    spoiled = {
        "static": real[:, WINDOW - 1].unsqueeze(1).expand(-1, len(later), -1, -1, -1),
        "jitter": real[:, back_and_forth],
        "cut": torch.where((later % WINDOW < 6)[:, None, None, None], real[:, later], real.roll(1, 0)[:, later]),
        "brightening": real[:, later] + 0.3 * torch.linspace(0, 1, len(later))[:, None, None, None],
    }
    score = mean_of(real)
    assert score > 0.4
    for name, rest in spoiled.items():
        assert mean_of(torch.cat([real[:, :WINDOW], rest.clamp(0, 1)], dim=1)) < score / 2, name
