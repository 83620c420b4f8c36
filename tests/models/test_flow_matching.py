import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.flow_matching import add_noise, guide, shift_sigma, warped_sigmas, x0_from_velocity

levels = st.floats(0.02, 1)
shifts = st.floats(1, 10)
many = settings(max_examples=50, deadline=None)


def pair(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean latents and noise, each [2 3 2 4 4]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, 3, 2, 4, 4, generator=generator, dtype=torch.float64).to(dtype).unbind()


def test_the_warped_schedule_of_wan_is_1000_937_5_833_3_625():
    timesteps = [1000 * sigma for sigma in warped_sigmas([1000, 750, 500, 250], shift=5)]
    assert timesteps == pytest.approx([1000, 937.5, 2500 / 3, 625], abs=1e-9)


def test_the_warped_schedule_of_the_tiny_world_is_1_0_9_0_75_0_5():
    assert warped_sigmas([1000, 750, 500, 250], shift=3) == pytest.approx([1, 0.9, 0.75, 0.5], abs=1e-12)


@many
@given(sigma=st.floats(0, 1), shift=shifts)
def test_shifting_keeps_the_ends_and_moves_everything_between_towards_noise(sigma, shift):
    moved = shift_sigma(torch.tensor(sigma, dtype=torch.float64), shift).item()
    assert sigma - 1e-12 <= moved <= 1
    assert shift_sigma(torch.tensor([0.0, 1.0]), shift).tolist() == pytest.approx([0, 1])


@many
@given(sigma=st.floats(0, 1), first=shifts, second=shifts)
def test_shifting_twice_is_shifting_by_the_product(sigma, first, second):
    sigma = torch.tensor(sigma, dtype=torch.float64)
    torch.testing.assert_close(shift_sigma(shift_sigma(sigma, first), second), shift_sigma(sigma, first * second))


@many
@given(seed=st.integers(0, 99), low=levels, high=levels)
def test_adding_noise_is_a_straight_line_from_clean_to_noise_sample_by_sample(seed, low, high):
    x0, noise = pair(seed)
    x_t = add_noise(x0, noise, torch.tensor([low, high], dtype=torch.float64))
    for i, sigma in enumerate((low, high)):
        torch.testing.assert_close(x_t[i], (1 - sigma) * x0[i] + sigma * noise[i])


def test_a_level_per_frame_noises_every_frame_to_its_own():
    x0, noise = pair(0)
    sigma = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.25, 0.0]], dtype=torch.float64)
    x_t = add_noise(x0, noise, sigma)
    for i in range(2):
        for f in range(3):
            torch.testing.assert_close(x_t[i, f], (1 - sigma[i, f]) * x0[i, f] + sigma[i, f] * noise[i, f])


@many
@given(seed=st.integers(0, 99), low=levels, high=levels)
def test_the_velocity_from_x0_to_noise_leads_back_to_x0(seed, low, high):
    x0, noise = pair(seed)
    sigma = torch.tensor([low, high], dtype=torch.float64)
    x_t = add_noise(x0, noise, sigma)
    torch.testing.assert_close(x0_from_velocity(x_t, noise - x0, sigma), x0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_algebra_is_done_in_at_least_float32_and_keeps_the_dtype(dtype):
    x0, noise = pair(1, dtype)
    sigma = torch.tensor([0.9375, 0.02], dtype=torch.float32)
    x_t = add_noise(x0, noise, sigma)
    exact = add_noise(x0.double(), noise.double(), sigma.double())
    assert x_t.dtype == dtype
    assert (x_t.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()


@many
@given(seed=st.integers(0, 99))
def test_guidance_3_of_self_forcing_is_4_in_the_standard_form(seed):
    conditional, unconditional = pair(seed)
    self_forcing = conditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(guide(conditional, unconditional, 4.0), self_forcing)


def test_guidance_of_0_is_unconditional_and_of_1_conditional():
    conditional, unconditional = pair(2)
    torch.testing.assert_close(guide(conditional, unconditional, 0.0), unconditional)
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
