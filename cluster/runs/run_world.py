"""Open the world of a run in each of its processes, and check it before any of them starts."""

from dataclasses import dataclass
from pathlib import Path

import torch

from models.network_config import WanConfig
from models.worlds.video_codec import VideoCodec
from models.worlds.world import Text, open_codec, open_text


@dataclass(frozen=True)
class RunWorld:
    """Opens the text encoder and the codec of a run."""

    wan: WanConfig
    text_encoder: Path | None
    """Folder of the text encoder; None in the tiny world."""
    vae: Path | None
    text_cache: Path
    text_dtype: torch.dtype
    negative_prompt: str

    def text(self, device: torch.device) -> Text:
        """Open the text encoder, which takes memory on `device` only while it encodes a prompt not yet cached.

        It does not warn of a negative prompt that is cut: `check_world` does, once for all processes. Raises ValueError
        where its folder is missing or does not fit.
        """
        warned = [self.negative_prompt]
        return open_text(self.wan, self.text_encoder, self.text_cache, device, self.text_dtype, warned_prompts=warned)

    def codec(self, device: torch.device) -> VideoCodec:
        """Open the codec on `device`. Raises ValueError where its folder is missing or does not fit."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        return open_codec(self.wan, self.vae, device, dtype)
