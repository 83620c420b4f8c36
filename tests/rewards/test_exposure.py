import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.exposure import brightness, exposure_drift


def still(levels: list[float], frames: int) -> torch.Tensor:
    return torch.tensor(levels)[:, None, None, None, None].expand(len(levels), frames, 3, 4, 4)


def test_brightness_is_the_mean_of_a_frame():
    video = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for b in range(2):
        for t in range(3):
            torch.testing.assert_close(brightness(video)[b, t], video[b, t].mean())


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
