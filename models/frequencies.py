"""Select the lowest spatial frequencies of latents, per frame and channel."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def low_frequency_dct(x: Tensor, share: float) -> Tensor:
    """Return the lowest coefficients [... h w] of the orthonormal cosine transform (DCT-II) of `x` [... H W].

    h = ceil(share H) and w = ceil(share W).

    Independent normal values have independent normal coefficients of the same spread, so that a density of these is
    the density of that part of `x`. With share 1 the result is `x`: nothing is transformed.
    """
    if share == 1:
        return x
    rows, columns = (_lowest(size, share, x.device, x.dtype) for size in x.shape[-2:])
    return rows @ x @ columns.mT


def low_pass(x: Tensor, share: float) -> Tensor:
    """Return the part of `x` [... H W] that `low_frequency_dct` keeps, in its size."""
    if share == 1:
        return x
    rows, columns = (_lowest(size, share, x.device, x.dtype) for size in x.shape[-2:])
    return rows.mT @ (rows @ x @ columns.mT) @ columns


@lru_cache(maxsize=16)
def _lowest(size: int, share: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the first ceil(share * size) rows of the DCT-II matrix of `size`."""
    frequency = torch.arange(math.ceil(share * size), dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) * frequency / size)
    basis *= ((2 - (frequency == 0).double()) / size).sqrt()
    return basis.to(device, dtype)
