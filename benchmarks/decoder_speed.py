"""Measure how fast latents are decoded: Wan's VAE, the same at a third of its width, and the tiny decoder (TAEHV).

python -m benchmarks.decoder_speed                                      CPU, a minute: 64x104 pixels
python -m benchmarks.decoder_speed height=60 width=104 dtype=bfloat16   a GPU: 480x832 pixels
More keys: frames=1 (latent frames that are decoded at a time; a block has 3), repeats=3.

One JSON line for each decoder, with random weights: video frames per second behind others, as generation decodes them.
The limit is the rate at which the device would do nothing but the operations that torch counts, as fast as the largest
product measured in the same run.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceilings import matmul_flops_per_s
from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.rollout_fps import decode_seconds, device_name
from models.keys import DTYPES, KeyGroup, key
from models.wan.tiny_decoder import TinyDecoder, TinyDecoderCodec
from models.wan.vae import WanCodec
from models.worlds.video_codec import VideoCodec

DECODERS = {"tiny decoder": None, "VAE, narrow": 32, "VAE": 96}
"""Width of the VAE's narrowest layers, by decoder; Wan2.1's is 96. None: the tiny decoder, which has one width."""


@dataclass(kw_only=True)
class DecoderOptions(KeyGroup):
    """Describes the latents that are decoded."""

    height: int = key(8, "rows of a latent frame, each of eight rows of pixels", ge=1)
    width: int = key(13, "columns of a latent frame, each of eight columns of pixels", ge=1)
    frames: int = key(1, "latent frames that are decoded at a time", ge=1)
    dtype: str = key("float32", "precision: " + " or ".join(DTYPES), choices=DTYPES)
    repeats: int = key(3, "times that each decoder is timed", ge=1)


def main(options: DecoderOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, shape = getattr(torch, options.dtype), (1, options.frames, 16, options.height, options.width)
    peak = matmul_flops_per_s(device, dtype, options.repeats)
    for name in DECODERS:
        flops = decode_flops(name, shape)
        codec = open_decoder(name, device, dtype)
        seconds = decode_seconds(torch.randn(shape, device=device), codec, options.repeats, device)
        made = codec.time_stride * options.frames
        config = {"decoder": name, "height": 8 * options.height, "width": 8 * options.width, "dtype": options.dtype}
        print_line(
            "decoder_fps", [made / s for s in seconds], "video frames/s", device_name(device),
            config | {"latent_frames": options.frames, "torch": torch.__version__},
            limit=made * peak / flops, tflop=round(flops / 1e12, 6),
        )  # fmt: skip


def open_decoder(name: str, device: torch.device, dtype: torch.dtype) -> VideoCodec:
    """Return a decoder of `DECODERS` with random weights."""
    width = DECODERS[name]
    with torch.device(device):
        if width is None:
            return TinyDecoderCodec(TinyDecoder().to(dtype))
        return WanCodec(AutoencoderKLWan(base_dim=width).to(dtype))


def decode_flops(name: str, shape: tuple[int, ...]) -> int:
    """Count the operations of decoding latents of `shape` behind others, without computing anything."""
    meta = torch.device("meta")
    codec, latents = open_decoder(name, meta, torch.float32), torch.empty(shape, device=meta)
    _, past = codec.decode(latents)
    with FlopCounterMode(display=False) as counter:
        codec.decode(latents, past)
    return counter.get_total_flops()


if __name__ == "__main__":
    run(main, __doc__, DecoderOptions)
