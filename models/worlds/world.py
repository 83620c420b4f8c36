"""Open text encoder and video codec of the networks' world: the tiny one or Wan's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import torch

from models.errors import ConfigError
from models.network_config import TINY, WanConfig
from models.worlds.tiny_world import TinyText
from models.worlds.video_codec import TinyCodec, VideoCodec

if TYPE_CHECKING:
    from models.text.embedding_cache import CachedText


Text = Union[TinyText, "CachedText"]
"""Maps prompts to embeddings [B S text_dim], padding rows zero; raises ValueError for an unknown prompt.

`identity` differs between encoders that may give different embeddings. `prepare` encodes prompts ahead, so that later
calls need no encoder in memory.
"""


@dataclass(frozen=True)
class World:
    """Bundles the codec and text encoder of one network."""

    codec: VideoCodec
    encode_text: Text


# Imports of diffusers and transformers take seconds that the tiny world need not wait for.


def open_codec(wan: WanConfig, vae: Path | None, device: torch.device, dtype: torch.dtype) -> VideoCodec:
    """Open the codec of networks of the shape `wan`: the tiny world's without the folder `vae`.

    Raises ConfigError where the folder is missing, damaged, or does not fit the network.
    """
    if vae is not None:
        from models.checkpoints.vae_files import open_wan_codec

        return open_wan_codec(vae, wan.in_channels, device, dtype)
    if wan.in_channels != TinyCodec.channels:
        raise ConfigError("vae", None, f"latents of {wan.in_channels} channels need one", "give a folder of Wan2.1")
    return TinyCodec()


def open_text(
    wan: WanConfig,
    folder: Path | None,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype,
    warned_prompts: Sequence[str] = (),
) -> Text:
    """Open the text encoder; its network is loaded when needed. Raises ConfigError as `open_codec`.

    Truncating a prompt prints a warning, except for `warned_prompts`.
    """
    if folder is not None:
        from models.text.embedding_cache import CachedText
        from models.text.umt5 import Umt5

        return CachedText(Umt5(folder, wan.text_dim, wan.text_len, device, dtype), cache, wan.text_len, warned_prompts)
    if wan.text_dim != TINY.text_dim:
        problem = f"texts of width {wan.text_dim} need one"
        raise ConfigError("text_encoder", None, problem, "give a folder of Wan2.1")
    return TinyText()
