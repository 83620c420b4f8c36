"""Compute flow matching: x_t = (1 - sigma) x0 + sigma noise, velocity = noise - x0, timestep = 1000 sigma.

Every function is pure. `sigma` broadcasts from the left: [B] or [B F] against [B F C H W].
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def _like(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim)).to(torch.promote_types(x.dtype, torch.float32))


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return x_t at level `sigma`; computed in at least float32, returned in the dtype of `x0`."""
    sigma = _like(sigma, x0)
    return ((1 - sigma) * x0 + sigma * noise).type_as(x0)


def x0_from_velocity(x_t: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Return the clean prediction x0 = x_t - sigma velocity."""
    return (x_t - _like(sigma, x_t) * velocity).type_as(x_t)


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move levels towards noise: s sigma / (1 + (s - 1) sigma). Wan uses s = 5, the tiny world 3."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def warped_sigmas(timesteps: Sequence[float], shift: float) -> list[float]:
    """Return the denoising levels of the few-step student: 1000, 750, 500, 250 with shift 5 are 1, .9375, .8333, .625.

    Kept as floats: rounding them to integer timesteps trains, but badly (Self-Forcing `warp_denoising_step`).
    """
    return [float(shift_sigma(torch.tensor(t / 1000, dtype=torch.float64), shift)) for t in timesteps]


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Apply classifier-free guidance in the standard form, uncond + scale (cond - uncond).

    Self-Forcing writes cond + s (cond - uncond): its 3.0 is 4.0 here.
    """
    return unconditional + scale * (conditional - unconditional)
