"""Wan2.1's VAE as a stream: the caches of its causal convolutions go on from block to block."""

import json
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor

ConvCaches = tuple[Tensor | str | None, ...]
"""What each causal convolution of the decoder remembers: its last two input frames. A string is diffusers' mark of an
upsampling that has seen the first latent frame only."""


class WanCodec:
    """Latents [B F 16 h w] of about unit variance to and from pixels [B 4F-3 3 8h 8w] in [0, 1].

    The first latent frame is one video frame, each further one four.
    """

    def __init__(self, vae: AutoencoderKLWan):
        config = vae.config
        self.vae = vae.eval().requires_grad_(False)
        self.channels = config.z_dim
        self.time_stride, self.space_stride = config.scale_factor_temporal, config.scale_factor_spatial
        weight = vae.post_quant_conv.weight
        self.mean, self.std = (
            torch.tensor(values, device=weight.device)[:, None, None, None]
            for values in (config.latents_mean, config.latents_std)
        )
        self.convolutions = sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())

    @torch.no_grad()
    def decode(self, latents: Tensor, past: ConvCaches | None = None) -> tuple[Tensor, ConvCaches]:
        """Pixels of the next latent frames, and the caches behind them: 1.9 GB a video of 480x832 in bfloat16."""
        scaled = rearrange(latents, "b f c h w -> b c f h w") * self.std + self.mean
        hidden = self.vae.post_quant_conv(scaled.to(self.vae.dtype))
        caches = [None] * self.convolutions if past is None else list(past)
        made = []
        for frame in range(hidden.shape[2]):
            first = past is None and frame == 0
            made.append(
                self.vae.decoder(hidden[:, :, frame : frame + 1], feat_cache=caches, feat_idx=[0], first_chunk=first)
            )
        pixels = rearrange(torch.cat(made, dim=2), "b c t h w -> b t c h w")
        return (pixels.float() * 0.5 + 0.5).clamp(0, 1), tuple(caches)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Latents [B F 16 h w], the mean of their distribution, of videos of 4F-3 frames."""
        if (video.shape[1] - 1) % self.time_stride:
            raise ValueError(f"got {video.shape[1]} video frames; the VAE encodes 1 + a multiple of {self.time_stride}")
        pixels = rearrange(video, "b t c h w -> b c t h w") * 2 - 1
        scaled = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return rearrange((scaled.float() - self.mean) / self.std, "b c f h w -> b f c h w")


def open_wan_codec(folder: Path, channels: int, device: torch.device, dtype: torch.dtype) -> WanCodec:
    """The codec of a diffusers folder (or of its vae/). Raises ValueError where it is none for `channels` channels."""
    inner = folder / "vae" if (folder / "vae").is_dir() else folder
    try:
        config = dict(json.loads((inner / "config.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"vae={folder} holds no readable vae/config.json; give a diffusers folder of Wan2.1"
        ) from error
    if config.get("_class_name") != "AutoencoderKLWan" or config.get("patch_size") is not None:
        raise ValueError(f"vae={folder} is not the VAE of Wan2.1 (AutoencoderKLWan without patches)")
    if config.get("z_dim", 16) != channels:
        raise ValueError(f"vae={folder} has latents of {config['z_dim']} channels, the network of {channels}")
    for name in ("latents_mean", "latents_std"):
        values = config.get(name, [0.0] * channels)
        if not isinstance(values, list) or len(values) != channels or not all(map(_is_number, values)):
            raise ValueError(f"vae={folder}: {name} of vae/config.json is not {channels} numbers; download it again")
    try:
        vae, found = AutoencoderKLWan.from_pretrained(
            inner, torch_dtype=dtype, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"vae={folder} cannot be loaded: {' '.join(str(error).split())}") from error
    for problem, names in (("lacks", found["missing_keys"]), ("has the unknown", found["unexpected_keys"])):
        if names:
            raise ValueError(f"vae={folder} {problem} {', '.join(sorted(names)[:4])}; download it again")
    return WanCodec(vae.to(device))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
