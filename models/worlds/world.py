"""How text and pixels become what the networks speak: the tiny world's way or Wan's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from models.network_config import TINY, WanConfig
from models.worlds.tiny_world import TinyText
from models.worlds.video_codec import TinyCodec, VideoCodec


class Text(Protocol):
    """Prompts to what networks read."""

    identity: str
    """Two encoders that may give different embeddings have different ones."""

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """[B S text_dim], padding rows zero. Raises ValueError for a prompt that it does not know."""
        ...

    def prepare(self, prompts: Sequence[str]) -> None:
        """Have all of `prompts` at hand from now on, without the memory that encoding takes. Raises ValueError."""
        ...

    def truncated_tokens(self, prompt: str) -> int:
        """Tokens of `prompt` behind the last one that is read: it is cut there. Raises ValueError."""
        ...


@dataclass(frozen=True)
class World:
    """A codec and a text encoder that fit one network."""

    codec: VideoCodec
    encode_text: Text


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
    text = open_text(wan, text_encoder, text_cache, device, dtype)
    return World(open_codec(wan, vae, device, dtype), text)


# Imports of diffusers and transformers take seconds that the tiny world need not wait for.


def open_codec(wan: WanConfig, vae: Path | None, device: torch.device, dtype: torch.dtype) -> VideoCodec:
    """The codec alone. Raises ValueError as `open_world` does."""
    if vae is not None:
        from models.wan.vae import open_wan_codec

        return open_wan_codec(vae, wan.in_channels, device, dtype)
    if wan.in_channels != TinyCodec.channels:
        raise ValueError(f"latents of {wan.in_channels} channels need a VAE; give vae=<diffusers folder>")
    return TinyCodec()


def open_text(
    wan: WanConfig,
    folder: Path | None,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype,
    warned_prompts: Sequence[str] = (),
) -> Text:
    """The text encoder alone; its network is loaded when it is needed. Raises ValueError as `open_world` does.

    It says which prompts are cut, but of those in `warned_prompts`.
    """
    if folder is not None:
        from models.text.embedding_cache import CachedText
        from models.text.umt5 import Umt5

        return CachedText(Umt5(folder, wan.text_dim, wan.text_len, device, dtype), cache, wan.text_len, warned_prompts)
    if wan.text_dim != TINY.text_dim:
        raise ValueError(f"texts of width {wan.text_dim} need an encoder; give text_encoder=<diffusers folder>")
    return TinyText()
