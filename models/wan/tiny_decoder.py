"""Decode Wan2.1's latents by a tiny network (TAEHV): fast, approximate, frame by frame, for previews and rewards."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, relu

from models.errors import ConfigError

LastFrames = tuple[Tensor, ...]
"""Last input frame [B C h w] of every memory block, in order."""

WIDTHS = (256, 128, 64, 64)
"""Channels of the three stages, and behind them."""
GROWTHS = (1, 2, 2)
"""Frames that a stage makes of each of its own."""
FIRST, MEMORY = "decoder.1.weight", "decoder.3.conv.0.weight"
"""Names, in a file of TAEHV, of the first convolution and of the first memory block's."""


class TinyDecoder(nn.Module):
    """Maps latents [B F 16 h w] of about unit variance to pixels [B 4F 3 8h 8w]; names follow TAEHV's files.

    Each of three stages has three memory blocks (a frame sees the one before it), doubles rows and columns, grows in
    time, and narrows. Source: github.com/madebyollin/taehv.
    """

    def __init__(self, channels: int = 16):
        super().__init__()
        layers: dict[int, nn.Module] = {1: nn.Conv2d(channels, WIDTHS[0], 3, padding=1)}
        for stage, (width, growth, behind) in enumerate(zip(WIDTHS, GROWTHS, WIDTHS[1:], strict=False)):
            place = 3 + 6 * stage
            layers |= {place + i: _MemoryBlock(width) for i in range(3)}
            layers[place + 4] = _Growth(width, growth)
            layers[place + 5] = nn.Conv2d(width, behind, 3, padding=1, bias=False)
        layers[22] = nn.Conv2d(WIDTHS[-1], 3, 3, padding=1)
        self.decoder = nn.ModuleDict({str(place): layer for place, layer in layers.items()})

    def forward(self, latents: Tensor, past: LastFrames | None = None) -> tuple[Tensor, LastFrames]:
        """Decode frames that continue those behind `past`; also returns the state behind them."""
        hidden = relu(_each(self.decoder["1"], 3 * torch.tanh(latents / 3)))
        before, behind = iter(past or ()), []
        for stage in range(len(GROWTHS)):
            place = 3 + 6 * stage
            for i in range(3):
                behind.append(hidden[:, -1])
                first = next(before) if past else torch.zeros_like(behind[-1])
                hidden = self.decoder[str(place + i)](hidden, torch.cat([first[:, None], hidden[:, :-1]], dim=1))
            larger = _each(lambda frames: interpolate(frames, scale_factor=2.0), hidden)
            hidden = _each(self.decoder[str(place + 5)], self.decoder[str(place + 4)](larger))
        return _each(self.decoder["22"], relu(hidden)), tuple(behind)


class _MemoryBlock(nn.Module):
    """Adds to each frame what three convolutions make of it and the frame before it."""

    def __init__(self, width: int):
        super().__init__()
        sizes = {"0": 2 * width, "2": width, "4": width}
        self.conv = nn.ModuleDict({name: nn.Conv2d(size, width, 3, padding=1) for name, size in sizes.items()})

    def forward(self, frames: Tensor, before: Tensor) -> Tensor:
        hidden = _each(self.conv["0"], torch.cat([frames, before], dim=2))
        for name in ("2", "4"):
            hidden = _each(self.conv[name], relu(hidden))
        return relu(hidden + frames)


class _Growth(nn.Module):
    """Makes `growth` frames of each by a product over channels."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width * growth, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        grown = _each(lambda one: conv2d(one, self.conv.weight), frames)
        return grown.unflatten(2, (-1, frames.shape[2])).flatten(1, 2)


def _each(layer: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """Apply a layer of pictures to every frame of [B F C h w]."""
    return layer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


class TinyDecoderCodec:
    """Maps latents [B F 16 h w] to pixels [B 4F-3 3 8h 8w] in [0, 1], as WanCodec does; it encodes nothing."""

    time_stride, space_stride = 4, 8

    def __init__(self, network: TinyDecoder):
        self.network = network.eval().requires_grad_(False)
        weight = network.decoder["1"].weight
        self.channels, self.dtype = weight.shape[1], weight.dtype

    @torch.no_grad()
    def decode(self, latents: Tensor, past: LastFrames | None = None) -> tuple[Tensor, LastFrames]:
        """Decode the next latent frames to pixels; the first one of a video is one video frame, all others four."""
        pixels, behind = self.network(latents.to(self.dtype), past)
        if past is None:
            pixels = pixels[:, self.time_stride - 1 :]
        return pixels.float().clamp(0, 1), behind

    def encode(self, video: Tensor) -> Tensor:
        """Raise ConfigError: a preview needs no encoder, and pictures go through the VAE itself."""
        problem = "a tiny decoder encodes no pictures, which this command needs"
        raise ConfigError("vae", None, problem, "write vae=a folder of Wan2.1, or its Wan2.1_VAE.pth")
