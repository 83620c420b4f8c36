"""Compute the losses of the policy gradient, one number per term, [N].

The student is its own policy: a denoising step re-noises its prediction to the next level, which draws
x' ~ N(alpha x0, sigma_next^2 I) with alpha = 1 - sigma_next. A term is one such transition of one block of one sample;
the last step of a block is deterministic and gives none. x0_new, x0_old, sample are [N D...], everything else [N].

Densities are averaged over dimensions, never summed: with 10^5 of them a sum is a ratio of 0 or infinity after one
update. The averages are of the order of 1e-6, so everything here is float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """Gives a loss per term, and how it came about."""

    loss: Tensor
    """[N], with the gradient."""
    exponent: Tensor
    """Logarithm of the clipped ratio [N], without gradient; 0 before the first update and without a ratio."""
    clipped: Tensor
    """[N] bool: the clip decided, so the term's gradient is 0."""


class Correction(NamedTuple):
    """Weighs terms that an older version of the student drew."""

    weight: Tensor
    """[N]; 0 where masked."""
    masked: Tensor
    """[N] bool: too unlikely or too likely by now to be corrected."""


PolicyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float], Terms]


def log_ratio(x0_new: Tensor, x0_old: Tensor, sample: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the mean over dimensions of log N(sample; new) - log N(sample; old), [N].

    Exactly 0 where new is old, bit for bit. Written as a difference of predictions: the difference of the squares would
    lose it to rounding.
    """
    x0_new, x0_old, sample = _flat(x0_new, x0_old, sample)
    sigma_next = sigma_next.double()
    slope = (1 - sigma_next) / sigma_next
    step = x0_new - x0_old
    noise = _noise(x0_old, sample, sigma_next)
    return slope * (noise * step).mean(dim=1) - slope.square() * step.square().mean(dim=1) / 2


def ppo(
    x0_new: Tensor, x0_old: Tensor, sample: Tensor, sigma: Tensor, sigma_next: Tensor, advantage: Tensor, clip: float
) -> Terms:
    """Clip the ratio of the mean log-densities. At ratio 1 the gradient is -A d log p / D.

    Its exponent is below 0 on average, by the mean square of the step; positive advantages are rarely clipped.
    """
    return _clipped(log_ratio(x0_new, x0_old.detach(), sample, sigma_next), advantage, clip)


def ratio_norm(
    x0_new: Tensor, x0_old: Tensor, sample: Tensor, sigma: Tensor, sigma_next: Tensor, advantage: Tensor, clip: float
) -> Terms:
    """Clip as GRPO-Guard (2510.22319): exponent mean(noise dmean), 0 on average.

    The loss counts 1 / (sigma - sigma_next). At ratio 1 the gradient is -A d log p / D x sigma_next / (sigma -
    sigma_next).
    """
    terms = _clipped(_noise_along_step(x0_new, x0_old, sample, sigma_next) * (1 - sigma_next.double()), advantage, clip)
    return terms._replace(loss=terms.loss / (sigma.double() - sigma_next.double()))


def x0_ratio(
    x0_new: Tensor, x0_old: Tensor, sample: Tensor, sigma: Tensor, sigma_next: Tensor, advantage: Tensor, clip: float
) -> Terms:
    """Clip exponent mean(noise dx0), the same scale at every level.

    The schedule no longer decides which transition learns. At ratio 1 the gradient is -A d log p / D x sigma_next / (1
    - sigma_next).
    """
    return _clipped(_noise_along_step(x0_new, x0_old, sample, sigma_next), advantage, clip)


def regression(
    x0_new: Tensor, x0_old: Tensor, sample: Tensor, sigma: Tensor, sigma_next: Tensor, advantage: Tensor, clip: float
) -> Terms:
    """Return the mean square to the target stop(x0 + A alpha (x' - alpha x0) / (2 sigma_next^2)).

    No ratio, nothing clipped. The gradient is -A d log p / D wherever x0_new is: a second pass over the same terms is
    not held back (CM-GRPO).
    """
    prediction, sample = _flat(x0_new, sample)
    level = sigma_next.double()[:, None]
    pull = (1 - level) * (sample - (1 - level) * prediction) / (2 * level.square())
    target = (prediction + advantage.double()[:, None] * pull).detach()
    loss = (prediction - target).square().mean(dim=1)
    return Terms(loss, torch.zeros_like(loss), torch.zeros_like(loss, dtype=torch.bool))


POLICY_LOSSES: dict[str, PolicyLoss] = {
    "ppo": ppo,
    "ratio_norm": ratio_norm,
    "x0_ratio": x0_ratio,
    "regression": regression,
}


def kl(x0_new: Tensor, x0_reference: Tensor, sigma_next: Tensor) -> Tensor:
    """Return KL(new || reference) of one transition per dimension, [N]: alpha^2 mean(dx0^2) / (2 sigma_next^2)."""
    x0_new, x0_reference = _flat(x0_new, x0_reference.detach())
    slope = (1 - sigma_next.double()) / sigma_next.double()
    return slope.square() * (x0_new - x0_reference).square().mean(dim=1) / 2


@torch.no_grad()
def correction(
    x0_old: Tensor, x0_behaviour: Tensor, sample: Tensor, sigma_next: Tensor, cap: float, mask: float
) -> Correction:
    """Weigh terms that were drawn with x0_behaviour (as the actor recorded) while the student predicts x0_old now.

    The likelihood ratio of all D dimensions is tempered, to its power 1 / sqrt(D): whole it is 0 or infinity, per
    dimension it is always 1. It is truncated at `cap`; outside [1 / mask, mask] the term counts 0 and is flagged.
    """
    dimensions = sample[0].numel()
    tempered = torch.exp(dimensions**0.5 * log_ratio(x0_old, x0_behaviour, sample, sigma_next))
    masked = (tempered < 1 / mask) | (tempered > mask)
    return Correction(tempered.clamp(max=cap).masked_fill(masked, 0.0), masked)


def effective_sample_size(weights: Tensor) -> float:
    """Compute Kish's effective sample share (sum w)^2 / (N sum w^2) of weights [N]; 0 without weights."""
    squares = weights.double().square().sum()
    return float(weights.double().sum().square() / (len(weights) * squares)) if squares else 0.0


def _clipped(exponent: Tensor, advantage: Tensor, clip: float) -> Terms:
    """Return -min(ratio A, clamp(ratio) A), [N]; selected, because the gradient of a minimum is halved at a tie."""
    ratio, advantage = exponent.exp(), advantage.double()
    clipped = ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))
    chosen = torch.where(clipped, ratio.detach().clamp(1 - clip, 1 + clip), ratio)
    return Terms(-advantage * chosen, exponent.detach(), clipped)


def _noise_along_step(x0_new: Tensor, x0_old: Tensor, sample: Tensor, sigma_next: Tensor) -> Tensor:
    x0_new, x0_old, sample = _flat(x0_new, x0_old.detach(), sample)
    return (_noise(x0_old, sample, sigma_next.double()) * (x0_new - x0_old)).mean(dim=1)


def _noise(x0: Tensor, sample: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the noise [N D] that made `sample` if `x0` was its clean prediction; everything float64."""
    level = sigma_next[:, None]
    return (sample - (1 - level) * x0) / level


def _flat(*tensors: Tensor) -> list[Tensor]:
    shapes = {tensor.shape for tensor in tensors}
    assert len(shapes) == 1, f"terms of different shapes: {shapes}"
    return [tensor.flatten(1).double() for tensor in tensors]
