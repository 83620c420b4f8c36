"""The losses against their formulas written slowly, and their gradients against the score-function estimator."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.losses.policy import POLICY_LOSSES, correction, effective_sample_size, kl, log_ratio

CLIP = 1e-2
LEVELS = (1.0, 0.9375, 0.8333, 0.625)
SCALE = {
    "ppo": lambda sigma, after: 1.0,
    "ratio_norm": lambda sigma, after: after / (sigma - after),
    "x0_ratio": lambda sigma, after: after / (1 - after),
    "regression": lambda sigma, after: 1.0,
}
RATIOS = ("ppo", "ratio_norm", "x0_ratio")
many = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 9999)
losses = pytest.mark.parametrize("name", POLICY_LOSSES)
ratios = pytest.mark.parametrize("name", RATIOS)


def terms(seed: int, step: float, count: int = 6, shape: tuple[int, ...] = (3, 2, 4)) -> dict[str, Tensor]:
    """Terms drawn from the old policy; the new one differs by about `step` in every dimension."""
    generator = torch.Generator().manual_seed(seed)
    x0_old, change, noise = torch.randn(3, count, *shape, generator=generator, dtype=torch.float64)
    place = torch.randint(0, 3, (count,), generator=generator)
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    after = levels[place + 1].reshape(-1, *(1,) * len(shape))
    return {
        "x0_new": x0_old + step * change,
        "x0_old": x0_old,
        "sample": (1 - after) * x0_old + after * noise,
        "sigma": levels[place],
        "sigma_next": levels[place + 1],
        "advantage": torch.randn(count, generator=generator, dtype=torch.float64),
    }


def log_density(sample: np.ndarray, x0: np.ndarray, after: float) -> float:
    """log N(sample; (1 - after) x0, after^2 I), dimension by dimension."""
    total = 0.0
    for value, mean in zip(sample.flat, ((1 - after) * x0).flat, strict=True):
        total += -((value - mean) ** 2) / (2 * after**2) - math.log(after * math.sqrt(2 * math.pi))
    return total


def slow(name: str, t: dict[str, Tensor], i: int, clip: float) -> tuple[float, float, bool]:
    """Loss, exponent and whether the clip decided, of term `i`."""
    new, old, sample = (t[key][i].numpy().ravel() for key in ("x0_new", "x0_old", "sample"))
    sigma, after, advantage = (float(t[key][i]) for key in ("sigma", "sigma_next", "advantage"))
    alpha, dimensions = 1 - after, len(new)
    if name == "regression":
        loss = 0.0
        for value, x0 in zip(sample, new, strict=True):
            target = x0 + advantage * alpha * (value - alpha * x0) / (2 * after**2)
            loss += (x0 - target) ** 2 / dimensions
        return loss, 0.0, False
    exponent = 0.0
    for value, x0, before in zip(sample, new, old, strict=True):
        noise = (value - alpha * before) / after
        guarded = {"ratio_norm": noise * (alpha * x0 - alpha * before), "x0_ratio": noise * (x0 - before)}
        exponent += guarded.get(name, 0.0) / dimensions
    if name == "ppo":
        exponent = (log_density(sample, new, after) - log_density(sample, old, after)) / dimensions
    ratio = math.exp(exponent)
    branches = (ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
    scale = 1 / (sigma - after) if name == "ratio_norm" else 1.0
    return -min(branches) * scale, exponent, branches[1] < branches[0]


@many
@given(name=st.sampled_from(sorted(POLICY_LOSSES)), seed=seeds, step=st.sampled_from([1e-3, 0.05, 0.5]))
def test_a_loss_equals_its_formula_written_slowly(name, seed, step):
    t = terms(seed, step)
    fast = POLICY_LOSSES[name](**t, clip=CLIP)
    for i in range(len(t["sigma"])):
        loss, exponent, clipped = slow(name, t, i, CLIP)
        np.testing.assert_allclose(fast.loss[i], loss, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(fast.exponent[i], exponent, rtol=1e-8, atol=1e-14)
        assert bool(fast.clipped[i]) == clipped


@many
@given(seed=seeds, step=st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_log_ratio_is_the_mean_difference_of_gaussian_log_densities(seed, step):
    t = terms(seed, step)
    fast = log_ratio(t["x0_new"], t["x0_old"], t["sample"], t["sigma_next"])
    for i, after in enumerate(t["sigma_next"].tolist()):
        new, old, sample = (t[key][i].numpy() for key in ("x0_new", "x0_old", "sample"))
        expected = (log_density(sample, new, after) - log_density(sample, old, after)) / sample.size
        np.testing.assert_allclose(fast[i], expected, rtol=1e-8, atol=1e-14)


@ratios
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_ratio_is_exactly_one_where_new_is_old_bit_for_bit(name, dtype):
    t = terms(0, step=0.0)
    t |= {key: t[key].to(dtype) for key in ("x0_new", "x0_old", "sample")}
    result = POLICY_LOSSES[name](**t, clip=CLIP)
    assert (result.exponent == 0.0).all() and not result.clipped.any()
    assert (log_ratio(t["x0_new"], t["x0_old"], t["sample"], t["sigma_next"]) == 0.0).all()


def test_a_log_ratio_of_float32_predictions_keeps_its_digits_where_the_squares_have_none():
    t = terms(1, step=1e-6, shape=(3, 16, 32))
    single = {key: t[key].float() for key in ("x0_new", "x0_old", "sample")}
    exact = {key: value.double() for key, value in single.items()}
    after = t["sigma_next"]
    expected = log_ratio(**exact, sigma_next=after)
    torch.testing.assert_close(log_ratio(**single, sigma_next=after.float()), expected, rtol=1e-5, atol=0.0)

    def square(key: str) -> Tensor:
        level = after.float().reshape(-1, 1, 1, 1)
        return ((single["sample"] - (1 - level) * single[key]) ** 2).mean(dim=(1, 2, 3)) / (2 * after.float() ** 2)

    naive = square("x0_old") - square("x0_new")
    assert ((naive - expected).abs() > 0.1 * expected.abs()).any()


def student(theta: Tensor, x: Tensor) -> Tensor:
    """A small student, x0 = f_theta(x): [2] and [N D] to [N D]."""
    return theta[0] * torch.tanh(x) + theta[1] * x.square()


def differences(function: Callable[[Tensor], float], theta: Tensor, width: float = 1e-6) -> Tensor:
    """Gradient of a scalar function by central differences."""
    steps = width * torch.eye(len(theta), dtype=theta.dtype)
    slopes = [(function(theta + step) - function(theta - step)) / (2 * width) for step in steps]
    return torch.tensor(slopes, dtype=theta.dtype)


@losses
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_at_ratio_one_is_the_score_function_estimator(name, seed):
    t = terms(seed, step=0.0, shape=(8,))
    x = torch.randn(len(t["sigma"]), 8, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
    theta = torch.tensor([0.7, -0.2], dtype=torch.float64)
    t["x0_old"] = student(theta, x)
    for i in range(len(x)):
        own = {key: value[i : i + 1] for key, value in t.items()}
        moving = theta.clone().requires_grad_()
        own["x0_new"] = student(moving, x[i : i + 1])
        POLICY_LOSSES[name](**own, clip=CLIP).loss.sum().backward()

        def density(theta: Tensor, i: int = i) -> float:
            x0 = student(theta, x[i : i + 1])[0].numpy()
            return log_density(t["sample"][i].numpy(), x0, float(t["sigma_next"][i])) / x0.size

        scale = SCALE[name](float(t["sigma"][i]), float(t["sigma_next"][i]))
        expected = -float(t["advantage"][i]) * scale * differences(density, theta)
        torch.testing.assert_close(moving.grad, expected, rtol=1e-6, atol=1e-9)


@ratios
def test_every_transition_pulls_x0_equally_under_x0_ratio_alone(name):
    t = terms(0, step=0.0, count=3)
    t["sigma"], t["sigma_next"] = (torch.tensor(levels, dtype=torch.float64) for levels in (LEVELS[:3], LEVELS[1:]))
    after = t["sigma_next"].reshape(-1, 1, 1, 1)
    noise = torch.randn(1, *t["x0_old"].shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t |= {"sample": (1 - after) * t["x0_old"] + after * noise, "advantage": torch.ones(3, dtype=torch.float64)}
    t["x0_new"] = t["x0_new"].clone().requires_grad_()
    POLICY_LOSSES[name](**t, clip=CLIP).loss.sum().backward()
    pull = t["x0_new"].grad
    assert torch.allclose(pull[0], pull[2]) == (name == "x0_ratio")
    if name == "x0_ratio":
        torch.testing.assert_close(pull[0], -noise[0] / noise.numel())


def at_exponent(name: str, exponent: float, advantage: float) -> dict[str, Tensor]:
    """One term whose clipped quantity has this logarithm: a step along the noise, of the length that it takes."""
    generator = torch.Generator().manual_seed(3)
    x0_old, noise = torch.randn(2, 1, 40, generator=generator, dtype=torch.float64)
    noise = noise / noise.square().mean().sqrt()
    sigma, after = (torch.tensor([level], dtype=torch.float64) for level in LEVELS[2:])
    slope = float((1 - after) / after)
    lengths = {
        "ppo": (1 - math.sqrt(1 - 2 * exponent)) / slope,  # of slope x - slope^2 x^2 / 2 = exponent
        "ratio_norm": exponent / float(1 - after),
        "x0_ratio": exponent,
    }
    x0_new = (x0_old + lengths[name] * noise).requires_grad_()
    sample = (1 - after) * x0_old + after * noise
    weight = torch.tensor([advantage], dtype=torch.float64)
    levels = {"sigma": sigma, "sigma_next": after}
    return {"x0_new": x0_new, "x0_old": x0_old, "sample": sample, "advantage": weight, **levels}


@ratios
@pytest.mark.parametrize("advantage", [2.0, -2.0, 0.0])
@pytest.mark.parametrize("ratio", [0.5, 1 - 1.01e-4, 1 - 0.99e-4, 1.0, 1 + 0.99e-4, 1 + 1.01e-4, 1.4])
def test_the_gradient_is_zero_exactly_where_the_clip_decides(name, advantage, ratio):
    """A good action may not become likelier than 1 + clip, a bad one not rarer than 1 - clip; the way back is open."""
    t = at_exponent(name, math.log(ratio), advantage)
    result = POLICY_LOSSES[name](**t, clip=1e-4)
    np.testing.assert_allclose(result.exponent, [math.log(ratio)], rtol=1e-9, atol=1e-15)
    beyond = (advantage > 0 and ratio > 1 + 1e-4) or (advantage < 0 and ratio < 1 - 1e-4)
    assert bool(result.clipped) == beyond
    result.loss.sum().backward()
    assert bool((t["x0_new"].grad == 0).all()) == (beyond or advantage == 0)


@ratios
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_the_gradient_inside_the_clip_is_ratio_times_that_at_the_start(name, advantage):
    generous, ratio = 10.0, 1.2
    t, start = at_exponent(name, math.log(ratio), advantage), at_exponent(name, 0.0, advantage)
    for term in (t, start):
        POLICY_LOSSES[name](**term, clip=generous).loss.sum().backward()
    if name == "ppo":  # its exponent bends: the noise that is left over pulls, not the whole of it
        slope = float((1 - t["sigma_next"]) / t["sigma_next"])
        left_over = 1 - slope * float((t["x0_new"] - t["x0_old"]).detach().square().mean().sqrt())
        ratio *= left_over
    torch.testing.assert_close(t["x0_new"].grad, ratio * start["x0_new"].grad)


def test_the_guarded_exponents_are_zero_on_average_where_that_of_ppo_leans_left():
    draws, dimensions, step = 4000, 256, 0.3
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(draws, dimensions, generator=generator, dtype=torch.float64)
    change = step * torch.randn(1, dimensions, generator=generator, dtype=torch.float64)
    after = torch.full((draws,), LEVELS[3], dtype=torch.float64)
    slope = (1 - LEVELS[3]) / LEVELS[3]
    t = {
        "x0_new": change.expand(draws, -1),
        "x0_old": torch.zeros(draws, dimensions, dtype=torch.float64),
        "sample": LEVELS[3] * noise,
        "sigma": torch.full_like(after, LEVELS[2]),
        "sigma_next": after,
        "advantage": torch.ones_like(after),
    }
    results = {name: POLICY_LOSSES[name](**t, clip=CLIP) for name in RATIOS}
    bias = -float((slope * change).square().mean()) / 2
    for name, result in results.items():
        error = float(result.exponent.std()) / math.sqrt(draws)
        assert abs(float(result.exponent.mean()) - (bias if name == "ppo" else 0.0)) < 4 * error, name
    assert abs(bias) > 20 * float(results["ppo"].exponent.std()) / math.sqrt(draws)
    likelier = {name: float((result.exponent > 0).double().mean()) for name, result in results.items()}
    assert likelier["ppo"] < 0.1  # so its clip hardly ever holds a good action back
    assert abs(likelier["ratio_norm"] - 0.5) < 0.03 and abs(likelier["x0_ratio"] - 0.5) < 0.03


@many
@given(seed=seeds)
def test_kl_equals_its_formula_and_its_gradient_the_finite_differences(seed):
    t = terms(seed, step=0.3, count=3, shape=(5,))
    reference, after = t["x0_old"], t["sigma_next"]

    def formula(x0: Tensor) -> float:
        total = 0.0
        for i, level in enumerate(after.tolist()):
            for new, old in zip(x0.reshape(3, 5)[i].tolist(), reference[i].tolist(), strict=True):
                total += ((1 - level) * (new - old)) ** 2 / (2 * level**2) / 5
        return total

    x0_new = t["x0_new"].clone().requires_grad_()
    value = kl(x0_new, reference, after)
    value.sum().backward()
    np.testing.assert_allclose(value.detach().sum(), formula(t["x0_new"]), rtol=1e-10)
    expected = differences(formula, t["x0_new"].flatten(), width=1e-5).reshape(3, 5)
    torch.testing.assert_close(x0_new.grad, expected, rtol=1e-5, atol=1e-9)
    assert (kl(reference, reference, after) == 0).all()


@losses
def test_only_the_new_prediction_receives_gradient(name):
    t = terms(0, step=0.01)
    leaves = {key: t[key].clone().requires_grad_() for key in ("x0_new", "x0_old")}
    result = POLICY_LOSSES[name](**(t | leaves), clip=CLIP)
    result.loss.sum().backward()
    assert leaves["x0_new"].grad.any() and leaves["x0_old"].grad is None
    assert not result.exponent.requires_grad


@losses
def test_terms_do_not_mix(name):
    t = terms(5, step=0.3)
    whole = POLICY_LOSSES[name](**t, clip=CLIP)
    part = POLICY_LOSSES[name](**{key: value[2:4] for key, value in t.items()}, clip=CLIP)
    for all_terms, two in zip(whole, part, strict=True):
        torch.testing.assert_close(all_terms[2:4], two)


@losses
def test_tensors_of_different_shapes_are_refused_instead_of_broadcast(name):
    t = terms(0, step=0.1)
    with pytest.raises(AssertionError, match=r"torch\.Size"):
        POLICY_LOSSES[name](**(t | {"sample": t["sample"][:1]}), clip=CLIP)


@many
@given(seed=seeds, step=st.sampled_from([0.1, 0.5, 2.0]))
def test_a_correction_is_the_full_likelihood_ratio_to_the_power_of_one_over_root_dimensions(seed, step):
    t = terms(seed, step)
    fast = correction(t["x0_new"], t["x0_old"], t["sample"], t["sigma_next"], cap=1.5, mask=3.0)
    for i, after in enumerate(t["sigma_next"].tolist()):
        new, old, sample = (t[key][i].numpy() for key in ("x0_new", "x0_old", "sample"))
        full = log_density(sample, new, after) - log_density(sample, old, after)
        tempered = math.exp(full / math.sqrt(sample.size))
        masked = not 1 / 3 <= tempered <= 3
        np.testing.assert_allclose(fast.weight[i], 0.0 if masked else min(tempered, 1.5), rtol=1e-9)
        assert bool(fast.masked[i]) == masked


def test_a_correction_of_equal_predictions_is_exactly_one():
    t = terms(0, step=0.0)
    result = correction(t["x0_old"], t["x0_old"].clone(), t["sample"], t["sigma_next"], cap=2.0, mask=5.0)
    assert (result.weight == 1.0).all() and not result.masked.any()


@pytest.mark.parametrize(
    ("tempered", "weight", "masked"),
    [(0.19, 0.0, True), (0.21, 0.21, False), (1.9, 1.9, False), (2.1, 2.0, False), (4.9, 2.0, False), (5.1, 0.0, True)],
)
def test_a_correction_is_truncated_at_the_cap_and_masked_outside_the_band(tempered, weight, masked):
    t = at_exponent("ppo", math.log(tempered) / math.sqrt(40), advantage=1.0)
    result = correction(t["x0_new"], t["x0_old"], t["sample"], t["sigma_next"], cap=2.0, mask=5.0)
    np.testing.assert_allclose(result.weight, [weight], rtol=1e-9)
    assert bool(result.masked) == masked and not result.weight.requires_grad


def test_a_prediction_that_is_no_number_stays_visible_in_the_correction():
    t = terms(0, step=0.1)
    t["x0_new"][0] = torch.nan
    result = correction(t["x0_new"], t["x0_old"], t["sample"], t["sigma_next"], cap=2.0, mask=5.0)
    assert result.weight[0].isnan() and not result.masked[0]


@many
@given(weights=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=20), zeros=st.integers(0, 5))
def test_the_effective_sample_size_is_a_share_of_the_terms(weights, zeros):
    given_weights = weights + [0.0] * zeros
    share = effective_sample_size(torch.tensor(given_weights))
    expected = sum(given_weights) ** 2 / (len(given_weights) * sum(weight**2 for weight in given_weights))
    assert share == pytest.approx(expected, rel=1e-5)
    assert 0 < share <= 1 + 1e-12
    assert effective_sample_size(torch.full((7,), weights[0])) == pytest.approx(1.0)


def test_one_term_among_many_is_a_sample_of_one_and_none_is_none():
    assert effective_sample_size(torch.tensor([0.0, 0.0, 1.5, 0.0])) == pytest.approx(0.25)
    assert effective_sample_size(torch.zeros(4)) == 0.0
