import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.losses.dmd import dmd_gradient, dmd_loss, score_sigmas, squared_error

many = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 999)
ALL = torch.ones(2, 3, dtype=torch.float64)
"""Every frame of two samples is judged."""


def latents(count: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Latents [2 3 2 2 4], different ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, 2, 2, 4, generator=generator, dtype=torch.float64).to(dtype).unbind()


@many
@given(seed=seeds)
def test_the_gradient_is_critic_minus_teacher_in_units_of_the_teachers_correction(seed):
    x0, real, fake = latents(3, seed)
    expected = np.zeros(x0.shape)
    for i in range(len(x0)):
        pairs = zip(x0[i].flatten().tolist(), real[i].flatten().tolist(), strict=True)
        distance = np.mean([abs(a - b) for a, b in pairs])
        expected[i] = (fake[i].double().numpy() - real[i].double().numpy()) / distance
    np.testing.assert_allclose(dmd_gradient(x0, real, fake).numpy(), expected, rtol=1e-5, atol=1e-5)


@many
@given(seed=seeds)
def test_the_gradient_vanishes_when_the_critic_equals_the_teacher(seed):
    x0, real = latents(2, seed)
    assert not dmd_gradient(x0, real, real).any()
    assert not dmd_gradient(x0, x0, x0).any()  # nor is it 0 / 0 where the teacher has nothing to correct


@many
@given(seed=seeds)
def test_a_step_down_goes_from_what_the_critic_sees_towards_what_the_teacher_sees(seed):
    x0, real = latents(2, seed)
    after = x0 - 0.1 * dmd_gradient(x0, real, fake_x0=x0)
    assert ((after - real).flatten(1).norm(dim=1) < (x0 - real).flatten(1).norm(dim=1)).all()


@many
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_samples_do_not_mix_and_the_gradient_has_no_unit(seed, scale):
    x0, real, fake = latents(3, seed, torch.float64)
    gradient = dmd_gradient(x0, real, fake)
    torch.testing.assert_close(dmd_gradient(x0[1:], real[1:], fake[1:]), gradient[1:])
    torch.testing.assert_close(dmd_gradient(scale * x0, scale * real, scale * fake), gradient)


def test_no_gradient_flows_through_the_gradient():
    x0, real, fake = (x.requires_grad_() for x in latents(3, 0))
    assert not dmd_gradient(x0, real, fake).requires_grad


@many
@given(seed=seeds, scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]))
def test_the_loss_backpropagates_exactly_the_gradient_over_the_number_of_elements_of_a_sample(seed, scale):
    x0, gradient = latents(2, seed)
    x0.requires_grad_()
    dmd_loss(x0, scale * gradient, ALL).sum().backward()
    elements = x0[0].numel()
    rounding = 4e-15 / elements  # of x0 - (x0 - gradient) in float64
    torch.testing.assert_close(x0.grad, scale * gradient / elements, rtol=1e-6, atol=rounding)


def test_the_loss_has_the_value_of_half_the_mean_square_of_the_gradient():
    x0, gradient = latents(2, 0)
    slowly = [0.5 * np.mean(sample.double().numpy() ** 2) for sample in gradient]
    assert dmd_loss(x0, gradient, ALL).tolist() == pytest.approx(slowly)


@many
@given(seed=seeds, judged=st.lists(st.integers(0, 1), min_size=6, max_size=6))
def test_frames_that_are_not_judged_count_in_no_way(seed, judged):
    """The loss of the judged frames alone, whatever the gradient is elsewhere."""
    x0, gradient = latents(2, seed)
    counts = torch.tensor(judged, dtype=torch.float64).view(2, 3)
    counts[counts.sum(dim=1) == 0] = 1
    x0.requires_grad_()
    loss = dmd_loss(x0, gradient, counts)
    slowly = [0.5 * np.mean(gradient[i, counts[i] == 1].double().numpy() ** 2) for i in range(2)]
    assert loss.tolist() == pytest.approx(slowly)
    loss.sum().backward()
    assert not x0.grad[counts == 0].any() and x0.grad[counts == 1].all()
    elements = counts.sum(dim=1) * x0[0, 0].numel()
    expected = gradient * (counts / elements[:, None])[..., None, None, None]
    torch.testing.assert_close(x0.grad, expected.float(), rtol=1e-5, atol=1e-8)


def test_the_loss_backpropagates_nothing_where_the_critic_equals_the_teacher():
    x0, real = latents(2, 1)
    x0.requires_grad_()
    loss = dmd_loss(x0, dmd_gradient(x0, real, real), ALL)
    loss.sum().backward()
    assert not loss.any() and not x0.grad.any()


@many
@given(uniform=st.lists(st.floats(0, 1), min_size=1, max_size=8), shift=st.floats(1, 10))
def test_score_levels_are_shifted_and_clamped_to_0_02_and_0_98(uniform, shift):
    sigmas = score_sigmas(torch.tensor(uniform, dtype=torch.float64), shift, 0.02, 0.98).tolist()
    slowly = [min(max(shift * u / (1 + (shift - 1) * u), 0.02), 0.98) for u in uniform]
    assert sigmas == pytest.approx(slowly)


def test_score_levels_of_wan_are_mostly_high():
    assert score_sigmas(torch.tensor([0.0, 0.5, 1.0]), 5, 0.02, 0.98).tolist() == pytest.approx([0.02, 5 / 6, 0.98])


@many
@given(seed=seeds)
def test_flow_matching_is_the_mean_squared_distance_to_noise_minus_x0(seed):
    velocity, x0, noise = latents(3, seed)
    slowly = []
    for i in range(len(x0)):
        terms = zip(*(x[i].flatten().tolist() for x in (velocity, x0, noise)), strict=True)
        slowly.append(np.mean([(v - (e - x)) ** 2 for v, x, e in terms]))
    assert squared_error(velocity, noise - x0).tolist() == pytest.approx(slowly, rel=1e-5)
    assert not squared_error(noise - x0, noise - x0).any()


@many
@given(seed=seeds)
def test_the_flow_loss_is_least_at_the_mean_of_what_is_possible(seed):
    one, other, x0 = latents(3, seed, torch.float64)
    velocity = torch.zeros_like(x0, requires_grad=True)
    (squared_error(velocity, one - x0) + squared_error(velocity, other - x0)).mean().backward()
    torch.testing.assert_close(velocity.grad, 2 * ((x0 - one) + (x0 - other)) / x0.numel())


def test_regression_is_the_mean_squared_distance():
    x0, target = latents(2, 0)
    slowly = [np.mean(sample.numpy() ** 2) for sample in x0 - target]
    assert squared_error(x0, target).tolist() == pytest.approx(slowly)
