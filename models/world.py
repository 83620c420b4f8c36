"""How text and pixels become what the networks speak: the tiny world's way or Wan's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models import tiny_world
from models.config import TINY, WanConfig
from models.video_codec import TinyCodec, VideoCodec


@dataclass(frozen=True)
class World:
    """A codec and a text encoder that fit one network."""

    codec: VideoCodec
    encode_text: Callable[[Sequence[str]], Tensor]
    """Prompts to [B S text_dim], padding rows zero. Raises ValueError for a prompt that it does not know."""


def open_world(
    wan: WanConfig,
    vae: Path | None,
    text_encoder: Path | None,
    text_cache: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> World:
    """The world of networks of the shape `wan`: the tiny one where no folders are given.

    Raises ValueError where a folder is missing, damaged, or does not fit the network.
    """
    if vae is None and wan.in_channels != TinyCodec.channels:
        raise ValueError(f"latents of {wan.in_channels} channels need a VAE; give vae=<diffusers folder>")
    if text_encoder is None and wan.text_dim != TINY.text_dim:
        raise ValueError(f"texts of width {wan.text_dim} need an encoder; give text_encoder=<diffusers folder>")
    return World(TinyCodec(), tiny_world.encode_text)
