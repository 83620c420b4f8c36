import json
from statistics import mean, median

import pytest
import torch
from torch import Tensor

from evaluation.tiny_metrics import segment_metrics
from models.worlds.tiny_judge import judge
from models.worlds.tiny_prompts import PROMPTS, SPEEDS, scene_of
from models.worlds.tiny_world import HORIZON, render, sample_video


def real_videos(prompts: tuple[str, ...], frames: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([sample_video(prompt, frames, generator) for prompt in prompts])


@pytest.fixture(scope="module")
def real() -> Tensor:
    return real_videos(PROMPTS, 4 * HORIZON, seed=0)


def test_real_videos_of_every_prompt_are_flawless_in_every_segment(real):
    metrics = segment_metrics(real, PROMPTS, HORIZON)
    assert metrics["validity"] == [1.0] * 4
    assert min(metrics["dynamic_degree"]) >= 0.95
    assert max(metrics["frozen_share"]) <= 0.02  # a pair that straddles a head-on bounce ends where it began
    assert metrics["speed"] == pytest.approx([1.0] * 4, abs=0.03)
    assert max(metrics["out_of_range"]) <= 0.01
    assert max(metrics["exposure_drift"]) < 0.005  # not 0: the sprite hides brighter and darker parts of the wall


def test_a_frozen_video_is_valid_and_does_not_move(real):
    still = real[::8, :1].expand(-1, 2 * HORIZON, -1, -1, -1)
    metrics = segment_metrics(still, PROMPTS[::8], HORIZON)
    assert metrics["validity"] == [1.0, 1.0]
    assert metrics["dynamic_degree"] == metrics["speed"] == [0.0, 0.0]
    assert metrics["exposure_drift"] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert metrics["frozen_share"] == [1.0, 1.0]


def test_a_jumping_sprite_is_valid_and_has_no_dynamics():
    prompt, light = PROMPTS[3], torch.tensor([0.8, 0.0, 0.0])
    corners = torch.tensor([[3.0, 3.0], [9.0, 9.0]]).repeat(6, 1)
    video = render(scene_of(prompt), corners, light.expand(12, 3))[None]
    metrics = segment_metrics(video, [prompt], 6)
    assert metrics["validity"] == [1.0, 1.0]
    assert metrics["dynamic_degree"] == metrics["frozen_share"] == [0.0, 0.0]


def test_a_slow_change_of_exposure_gives_the_drift_computed_by_hand(real):
    rate, frames = 0.004, torch.arange(36.0)
    still = real[:6, :1].expand(-1, 36, -1, -1, -1)
    metrics = segment_metrics(still - rate * frames[:, None, None, None], PROMPTS[:6], 12)
    # The first segment's mean is frame 5.5; its own frames are 3 away on average, the others' 12 and 24.
    assert metrics["exposure_drift"] == pytest.approx([3 * rate, 12 * rate, 24 * rate], abs=1e-5)


def test_a_darkening_wall_is_reported_as_out_of_range_and_a_recovering_one_no_more(real):
    dimmed = real[:12].clone()
    dimmed[:, HORIZON : 2 * HORIZON] *= 0.3
    metrics = segment_metrics(dimmed, PROMPTS[:12], HORIZON)
    assert metrics["out_of_range"] == [0.0, 1.0, 0.0, 0.0]
    assert metrics["validity"] == [1.0, 0.0, 1.0, 1.0]


def test_dynamics_need_two_valid_frames_and_a_pair_counts_where_it_ends(real):
    prompts, clean = PROMPTS[:12], real[:12]
    spoiled = clean.clone()
    spoiled[:, HORIZON - 1] = 0.0  # the last frame of the first segment
    before = segment_metrics(clean, prompts, HORIZON)["dynamic_degree"]
    after = segment_metrics(spoiled, prompts, HORIZON)["dynamic_degree"]
    assert before[0] - after[0] == pytest.approx(1 / (HORIZON - 1), abs=0.02)
    assert before[1] - after[1] == pytest.approx(1 / HORIZON, abs=0.02)
    assert before[2:] == after[2:]


def test_metrics_equal_the_slow_count_over_every_frame_and_pair(real):
    prompts, horizon = PROMPTS[::6], 6
    generator = torch.Generator().manual_seed(1)
    video = real[::6, :18] * torch.linspace(1, 0.7, 18)[:, None, None, None]
    video = (video + 0.03 * torch.randn(video.shape, generator=generator)).clamp(0, 1)
    video[:4, 7:10] = video[:4, 7:8]
    metrics, verdict = segment_metrics(video, prompts, horizon), judge(video, prompts)
    assert 0 < mean(metrics["validity"]) < 1 and mean(metrics["frozen_share"]) > 0
    for segment in range(3):
        valid, drift, outside, dynamic, still, pace = ([] for _ in range(6))
        for b, prompt in enumerate(prompts):
            speed, start = SPEEDS[scene_of(prompt).speed], video[b, :horizon].mean()
            for t in range(segment * horizon, (segment + 1) * horizon):
                valid.append(bool(verdict.error[b, t] < 0.045))
                drift.append(float((video[b, t].mean() - start).abs()))
                outside.append(not 0.55 <= float(verdict.light[b, t, 0]) <= 1.0)
                if t > 0:
                    moved = float((verdict.position[b, t] - verdict.position[b, t - 1]).norm())
                    both = bool(verdict.valid[b, t] and verdict.valid[b, t - 1])
                    dynamic.append(both and 0.4 * speed <= moved <= speed + 1.2)
                    still.append(moved < 0.25 * speed)
                    pace.append(moved / speed)
        assert metrics["validity"][segment] == pytest.approx(mean(valid))
        assert metrics["exposure_drift"][segment] == pytest.approx(mean(drift), rel=1e-4)
        assert metrics["out_of_range"][segment] == pytest.approx(mean(outside))
        assert metrics["dynamic_degree"][segment] == pytest.approx(mean(dynamic))
        assert metrics["frozen_share"][segment] == pytest.approx(mean(still))
        assert metrics["speed"][segment] == pytest.approx(median(pace), rel=1e-4)


def test_metrics_are_plain_numbers_one_per_segment(real):
    metrics = segment_metrics(real[:2, :24], PROMPTS[:2], 8)
    assert json.loads(json.dumps(metrics)) == metrics
    assert {len(numbers) for numbers in metrics.values()} == {3}


def test_a_video_that_is_no_whole_number_of_segments_is_refused_with_both_numbers(real):
    with pytest.raises(ValueError, match=r"\b25\b.*\b12\b"):
        segment_metrics(real[:1, :25], PROMPTS[:1], 12)


def test_a_segment_too_short_for_a_pair_is_refused(real):
    with pytest.raises(ValueError, match="horizon_frames=1"):
        segment_metrics(real[:1, :4], PROMPTS[:1], 1)
