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
    unload_text: Callable[[], None]
    """Gives the memory of the text encoder back; what it has encoded stays at hand."""


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
    encode_text, unload_text = _open_text(wan, text_encoder, text_cache, device, dtype)
    return World(_open_codec(wan, vae, device, dtype), encode_text, unload_text)


# Imports of diffusers and transformers take seconds that the tiny world need not wait for.


def _open_codec(wan: WanConfig, vae: Path | None, device: torch.device, dtype: torch.dtype) -> VideoCodec:
    if vae is not None:
        from models.wan_codec import open_wan_codec

        return open_wan_codec(vae, wan.in_channels, device, dtype)
    if wan.in_channels != TinyCodec.channels:
        raise ValueError(f"latents of {wan.in_channels} channels need a VAE; give vae=<diffusers folder>")
    return TinyCodec()


def _open_text(
    wan: WanConfig, folder: Path | None, cache: Path, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[Sequence[str]], Tensor], Callable[[], None]]:
    if folder is not None:
        from models.text_cache import CachedText
        from models.text_encoder import Umt5

        encoder = Umt5(folder, wan.text_dim, wan.text_len, device, dtype)
        return CachedText(encoder, cache, wan.text_len), encoder.unload
    if wan.text_dim != TINY.text_dim:
        raise ValueError(f"texts of width {wan.text_dim} need an encoder; give text_encoder=<diffusers folder>")
    return tiny_world.encode_text, lambda: None
