import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.adversarial_clips import textured_wall
from rewards.drift import drift_score, exposure_drift, exposure_of, sharpness_of
from rewards.registry import make_reward
from rewards.reward import Clip
from rewards.reward_config import RewardConfig

PIXELS = torch.rand(3, 3, 8, 10, generator=torch.Generator().manual_seed(0))


def wall(frames: int = 4) -> torch.Tensor:
    return torch.from_numpy(textured_wall((32, 48), 0)).permute(2, 0, 1).expand(frames, -1, -1, -1)


def scores(name: str, *videos: torch.Tensor) -> list[float]:
    reference = Clip("", wall(), torch.zeros(0))
    return make_reward(name, RewardConfig())([Clip("", v, torch.zeros(0), None, reference) for v in videos]).tolist()


def blurred(pixels: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels, size, stride=1, padding=size // 2, count_include_pad=False)


def grey(frame: numpy.ndarray) -> numpy.ndarray:
    return 0.299 * frame[0] + 0.587 * frame[1] + 0.114 * frame[2]


def test_exposure_equals_its_formula_written_slowly():
    pixels = PIXELS.clone()
    pixels[1, :, :2] = 1.0
    pixels[2, 0, 0, :5] = 0.0
    for frame, found in zip(pixels.numpy(), exposure_of(Clip("", pixels, torch.zeros(0))), strict=True):
        level = sorted(grey(frame).flatten().tolist())
        low, high = level[round(0.05 * 79)], level[round(0.95 * 79)]
        clipped = sum(value <= 1 / 255 or value >= 254 / 255 for value in frame.flatten().tolist()) / 240
        expected = [sum(level) / 80, math.log(high - low + 0.02), clipped]
        assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_sharpness_equals_its_formula_written_slowly():
    for frame, found in zip(PIXELS.numpy(), sharpness_of(Clip("", PIXELS, torch.zeros(0))), strict=True):
        y, energy = grey(frame), []
        for r in range(1, 7):
            for c in range(1, 9):
                across = y[r - 1 : r + 2, c + 1] - y[r - 1 : r + 2, c - 1]
                down = y[r + 1, c - 1 : c + 2] - y[r - 1, c - 1 : c + 2]
                weights = numpy.array([1, 2, 1]) / 8
                energy.append((weights @ across) ** 2 + (weights @ down) ** 2)
        assert found.item() == pytest.approx(math.log(sum(energy) / len(energy) + 1e-4), rel=1e-4)


def test_undrifted_equals_its_formula_written_slowly():
    generator = torch.Generator().manual_seed(0)
    seen, reference = torch.rand(5, 2, generator=generator), torch.rand(3, 2, generator=generator)
    scale, total = (0.5, 0.2), 0.0
    for t in range(5):
        distance = 0.0
        for n in range(2):
            middle = sum(reference[:, n].tolist()) / 3
            distance += ((seen[t, n].item() - middle) / scale[n]) ** 2
        total += math.exp(-distance)
    assert drift_score(seen, reference, torch.tensor(scale)).item() == pytest.approx(total / 5, rel=1e-5)


def test_what_equals_its_reference_has_not_drifted():
    assert scores("exposure_drift", wall(7)) == scores("sharpness_drift", wall(7)) == pytest.approx([1.0])


def test_exposure_falls_with_every_step_of_brightness_up_or_down_and_with_contrast():
    brighter = scores("exposure_drift", *(wall() + step for step in (0, 0.03, 0.06, 0.12, 0.2)))
    darker = scores("exposure_drift", *(wall() - step for step in (0, 0.02, 0.04, 0.08)))
    flatter = scores("exposure_drift", *(0.45 + (wall() - 0.45) * share for share in (1, 0.7, 0.4, 0.1)))
    for falling in (brighter, darker, flatter):
        assert falling == sorted(falling, reverse=True) and falling[-1] < 0.6


def test_sharpness_falls_with_blur_and_with_noise():
    noise = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    kept, soft, softer, rough = scores(
        "sharpness_drift", wall(), blurred(wall(), 3), blurred(wall(), 5), wall() + 0.3 * noise
    )
    assert kept > 0.99 > soft > softer and softer < 0.5 and rough < 0.5


@pytest.mark.parametrize("name", ["exposure_drift", "sharpness_drift"])
def test_a_single_frame_or_no_reference_tells_nothing(name):
    reference = Clip("", wall(), torch.zeros(0))
    lonely = [Clip("", wall(1), torch.zeros(0), None, reference), Clip("", wall(), torch.zeros(0))]
    assert make_reward(name, RewardConfig())(lonely).isnan().all()


def still(levels: list[float], frames: int) -> torch.Tensor:
    return torch.tensor(levels)[:, None, None, None, None].expand(len(levels), frames, 3, 4, 4)


def test_a_frame_drifts_by_the_distance_of_its_mean_to_that_of_the_first():
    video = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    slow = [[abs(frame.mean() - frames[0].mean()).item() for frame in frames] for frames in video]
    torch.testing.assert_close(exposure_drift(video, 1), torch.tensor(slow))


@given(levels=st.lists(st.floats(0, 1), min_size=1, max_size=4), horizon=st.integers(1, 6))
def test_a_still_video_does_not_drift_however_bright(levels, horizon):
    torch.testing.assert_close(exposure_drift(still(levels, 6), horizon), torch.zeros(len(levels), 6))


@given(rate=st.floats(-0.02, 0.02), horizon=st.integers(1, 8))
def test_a_steady_drift_is_its_rate_times_the_frames_since_the_middle_of_the_first_horizon(rate, horizon):
    frames = torch.arange(24.0)
    video = still([0.5], 24) + rate * frames[:, None, None, None]
    expected = abs(rate) * (frames - (horizon - 1) / 2).abs()
    torch.testing.assert_close(exposure_drift(video, horizon), expected[None], rtol=0, atol=1e-6)


def test_every_video_is_compared_with_its_own_beginning():
    video = still([0.2, 0.8], 4).clone()
    video[1, 2:] -= 0.3
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.3, 0.3]])
    torch.testing.assert_close(exposure_drift(video, 2), expected)


def test_brightening_and_darkening_do_not_cancel():
    video = still([0.5, 0.5], 2).clone()
    video[0, 1] += 0.1
    video[1, 1] -= 0.1
    torch.testing.assert_close(exposure_drift(video, 1).mean(0), torch.tensor([0.0, 0.1]))
