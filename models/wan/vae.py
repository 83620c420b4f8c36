"""Stream Wan2.1's VAE: the caches of its causal convolutions pass from block to block."""

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from einops import rearrange
from torch import Tensor, nn

ConvCaches = tuple[Tensor | str | None, ...]
"""Cache of each causal convolution of the decoder: its last two input frames. A string is diffusers' mark of an
upsampling that has seen the first latent frame only."""


def lay_channels_last(vae: AutoencoderKLWan) -> None:
    """Lay convolutions' weights out channels last, in place; activations and caches then follow them.

    Tensor cores read both so: else cuDNN transposes the input and the output of each convolution.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


class WanCodec:
    """Maps latents [B F 16 h w] of about unit variance to and from pixels [B 4F-3 3 8h 8w] in [0, 1].

    The first latent frame is one video frame, each further one four.
    """

    def __init__(self, vae: AutoencoderKLWan):
        config = vae.config
        self.vae = vae.eval().requires_grad_(False)
        self.channels = config.z_dim
        self.time_stride, self.space_stride = config.scale_factor_temporal, config.scale_factor_spatial
        weight = vae.post_quant_conv.weight
        if weight.device.type == "cuda":
            lay_channels_last(vae)
        self.mean, self.std = (
            torch.tensor(values, device=weight.device)[:, None, None, None]
            for values in (config.latents_mean, config.latents_std)
        )
        self.convolutions = sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())

    @torch.no_grad()
    def decode(self, latents: Tensor, past: ConvCaches | None = None) -> tuple[Tensor, ConvCaches]:
        """Decode the next latent frames to pixels; also returns the caches (1.9 GB a 480x832 video in bfloat16)."""
        scaled = rearrange(latents, "b f c h w -> b c f h w") * self.std + self.mean
        hidden = self.vae.post_quant_conv(scaled.to(self.vae.dtype))
        caches = [None] * self.convolutions if past is None else list(past)
        frames = []
        for frame in range(hidden.shape[2]):
            first = past is None and frame == 0
            frames.append(
                self.vae.decoder(hidden[:, :, frame : frame + 1], feat_cache=caches, feat_idx=[0], first_chunk=first)
            )
        pixels = rearrange(torch.cat(frames, dim=2), "b c t h w -> b t c h w")
        return (pixels.float() * 0.5 + 0.5).clamp(0, 1), tuple(caches)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encode videos of 4F-3 frames to latents [B F 16 h w], the mean of their distribution."""
        if (video.shape[1] - 1) % self.time_stride:
            raise ValueError(f"got {video.shape[1]} video frames; the VAE encodes 1 + a multiple of {self.time_stride}")
        pixels = rearrange(video, "b t c h w -> b c t h w") * 2 - 1
        scaled = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return rearrange((scaled.float() - self.mean) / self.std, "b c f h w -> b f c h w")
