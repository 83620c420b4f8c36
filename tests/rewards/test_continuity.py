import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import sample_video, to_latents, to_pixels
from rewards.continuity import FlowContinuity, continuity_of
from rewards.flow.optical_flow import Flow
from rewards.reward import Clip
from rewards.reward_config import RewardConfig
from rewards.scorer import Scorer

CHOSEN = {"floor_share": 0.5, "floor_pairs": 4, "offset": 0.25, "spike_free": 0.25, "jerk_scale": 2.0}
TEXTURE = torch.ones(1, 4, 5)
motions = st.lists(st.floats(0, 20, width=32), min_size=1, max_size=12)


def slowly(moved, invalid, reference, reach):
    near = [moved[max(0, i - reach) : i + reach + 1] for i in range(len(moved))]
    level = [math.log(sum(some) / len(some) + 0.25) for some in near]
    changes = [abs(b - a) for a, b in pairwise(level)]
    last = moved[-4:]
    floor = min(1.0, sum(last) / len(last) / (0.5 * reference))
    spike, jerk = (max(changes), sum(changes) / len(changes)) if changes else (0.0, 0.0)
    return floor * math.exp(-max(0.0, spike - 0.25) - 2 * jerk) * (1 - sum(invalid) / len(invalid))


def steady(speed: float, pairs: int = 6) -> Flow:
    there = torch.zeros(pairs, 2, 4, 5)
    there[:, 0] = speed
    return Flow.of(there, -there, TEXTURE.expand(pairs, -1, -1))


def clip(flow: Flow, **parts) -> Clip:
    return Clip("", torch.zeros(len(flow.forward) + 1, 3, 4, 5), torch.zeros(0), flow, **parts)


@given(moved=motions, reference=st.floats(0.05, 10), reach=st.integers(0, 3), seed=st.integers(0, 100))
def test_continuity_equals_the_formula_written_slowly_and_stays_within_0_and_1(moved, reference, reach, seed):
    invalid = torch.rand(len(moved), generator=torch.Generator().manual_seed(seed))
    score = continuity_of(
        torch.tensor(moved), invalid, torch.tensor(reference), smooth_pairs=2 * reach + 1, **CHOSEN
    ).item()
    assert score == pytest.approx(slowly(moved, invalid.tolist(), reference, reach), rel=1e-4, abs=1e-7)
    assert 0 <= score <= 1


def test_steady_motion_at_the_references_pace_is_flawless_and_standing_still_is_worthless():
    reference = clip(steady(3))
    reward = FlowContinuity(RewardConfig())
    clips = [clip(steady(speed), reference=reference) for speed in (3.0, 1.5, 0.75, 0.0, 9.0)]
    assert reward(clips).tolist() == pytest.approx([1, 1, 0.5, 0, 1])


def test_the_bar_stands_in_for_the_references_own_flow():
    slow, fast = steady(1), steady(4)
    reward = FlowContinuity(RewardConfig())
    own, raised = clip(slow, reference=clip(slow)), clip(slow, reference=clip(slow), motion_reference=(clip(fast),))
    assert reward([own, raised]).tolist() == pytest.approx([1, 0.5])


def test_a_dead_reference_sets_the_least_bar():
    still = clip(steady(0))
    reward = FlowContinuity(RewardConfig(least_motion=0.8))
    assert reward([clip(steady(0.2), reference=still), still]).tolist()[0] == pytest.approx(0.5)


def test_without_a_reference_or_a_pair_nothing_can_be_told():
    reference, reward = clip(steady(3)), FlowContinuity(RewardConfig())
    alone = clip(steady(3, pairs=0), reference=reference)
    unanchored = clip(steady(3), reference=clip(steady(3, pairs=0)))
    assert reward([clip(steady(3)), alone, unanchored]).isnan().all()


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
