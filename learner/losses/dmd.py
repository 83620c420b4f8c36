"""Compute the losses of distillation per sample, [B], because windows have weights."""

import torch
from torch import Tensor

from models.flow_matching import shift_sigma


def score_sigmas(uniform: Tensor, shift: float, low: float, high: float) -> Tensor:
    """Return the noise levels at which teacher and critic are compared: uniform [B] in [0, 1], shifted, clamped.

    Wan: shift 5, clamped to [0.02, 0.98] (Self-Forcing, timesteps 20 and 980).
    """
    return shift_sigma(uniform, shift).clamp(low, high)


def dmd_gradient(x0: Tensor, real_x0: Tensor, fake_x0: Tensor) -> Tensor:
    """Return the direction [B F C H W] that lowers KL(student || teacher) at `x0` (DMD2, Eq. 7; Self-Forcing++ Eq. 2).

    (fake - real) / mean |x0 - real|, the mean over each sample: the score difference, in units of the distance that the
    teacher wants the sample to move. No gradient flows through any input.
    """
    x0, real_x0, fake_x0 = x0.detach(), real_x0.detach(), fake_x0.detach()
    scale = (x0 - real_x0).abs().flatten(1).mean(dim=1).clamp_min(torch.finfo(x0.dtype).tiny)
    return (fake_x0 - real_x0) / scale.reshape(-1, *(1,) * (x0.ndim - 1))


def dmd_loss(x0: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
    """Return losses [B] with gradients, by `x0` [B F C H W], of `gradient` / number of unmasked elements.

    0.5 mean (x0 - stop(x0 - gradient))^2 over the frames where `mask` [B F] is 1 (else 0), in float64 because the
    square of a small difference is computed and undone.
    """
    target = (x0.double() - gradient.double()).detach()
    squares = (x0.double() - target).square() * mask[..., None, None, None]
    return 0.5 * (squares.flatten(1).sum(dim=1) / (mask.sum(dim=1) * x0[0, 0].numel()))


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return mean squared distances [B].

    Of a velocity to noise - x0 it is the flow-matching loss, which trains teacher and critic; of an x0 to the
    teacher's, the regression loss of ODE initialisation (Self-Forcing++, Eq. 4).
    """
    return (prediction - target).square().flatten(1).mean(dim=1)
