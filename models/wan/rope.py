"""Compute rotary positions in three axes, for any frame index.

Wan looks rotations up in a table of 1024 rows, which ends a video after 255 s. Attention depends on differences of
positions only, so computing the rotation removes that limit (reference: Wan2.1 `rope_params`, theta 10000).
"""

import torch
from torch import Tensor

from models.network_config import WanConfig

THETA = 10_000.0


def _angles(positions: Tensor, dim: int) -> Tensor:
    """Return angles [n dim/2] of `positions` [n]. Float64: in float32 the angle error reaches 3e-4 at frame 1000."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.to(torch.float64)[:, None] / THETA**exponents


def rotary_positions(
    config: WanConfig, start: int, frames: int, height: int, width: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each [L 1 head_dim/2], of `frames` latent frames from frame `start` on.

    `height` and `width` are those of a latent frame; device and dtype come from `like` (at least float32).
    """
    rows, columns = config.grid(height, width)
    device = like.device
    time, row, column = (
        _angles(torch.arange(first, first + n, device=device), dim)
        for first, n, dim in zip((start, 0, 0), (frames, rows, columns), config.rotary_dims, strict=True)
    )
    angles = torch.cat(
        [
            time[:, None, None].expand(-1, rows, columns, -1),
            row[None, :, None].expand(frames, -1, columns, -1),
            column[None, None, :].expand(frames, rows, -1, -1),
        ],
        dim=-1,
    ).reshape(frames * rows * columns, 1, -1)
    dtype = torch.promote_types(like.dtype, torch.float32)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of `x` [B L H head_dim] by `rotary`; keeps the dtype."""
    cosine, sine = rotary
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2).type_as(x)


def shift_frames(config: WanConfig, keys: Tensor, frames: int) -> Tensor:
    """Move rotated `keys` [B L H head_dim] by a number of frames: rotations of the same axis add up."""
    time = _angles(torch.full((1,), frames, device=keys.device), config.rotary_dims[0])  # a tensor of it would wait
    rest = torch.zeros(1, sum(config.rotary_dims[1:]) // 2, dtype=time.dtype, device=keys.device)
    angles = torch.cat([time, rest], dim=-1)[:, None]
    dtype = torch.promote_types(keys.dtype, torch.float32)
    return rotate(keys, (angles.cos().to(dtype), angles.sin().to(dtype)))
