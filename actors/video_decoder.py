"""From latents to the bytes of a video, block by block; on a GPU beside the next block's denoising."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from models.video_codec import VideoCodec


def decode_blocks(latents: Iterable[Tensor], codec: VideoCodec, device: torch.device) -> Iterator[Tensor]:
    """Video frames, uint8 [B T H W 3] on the CPU, of each block of latents [B F C H W], in order.

    On a GPU the frames of a block come when the next block has been asked for. What makes the blocks must not wait for
    the device: then it works on that next block while this one is decoded, copied and written.
    """
    return _beside(latents, codec, device) if device.type == "cuda" else _in_turn(latents, codec)


def _in_turn(latents: Iterable[Tensor], codec: VideoCodec) -> Iterator[Tensor]:
    past = None
    for x0 in latents:
        frames, past = _decoded(codec, x0, past)
        yield frames


def _beside(latents: Iterable[Tensor], codec: VideoCodec, device: torch.device) -> Iterator[Tensor]:
    denoising, decoding = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    past, waiting = None, None
    for x0 in latents:
        decoding.wait_stream(denoising)
        with torch.cuda.stream(decoding):
            frames, past = _decoded(codec, x0, past)
            frames = frames.to("cpu", non_blocking=True)  # into pinned memory, when the device comes to it
            done = decoding.record_event()
        x0.record_stream(decoding)  # or denoising could write into its memory before it was read
        if waiting is not None:
            yield _awaited(*waiting)
        waiting = frames, done
    if waiting is not None:
        yield _awaited(*waiting)


def _decoded(codec: VideoCodec, x0: Tensor, past: Any) -> tuple[Tensor, Any]:
    pixels, past = codec.decode(x0, past)
    return (pixels.float() * 255).round().byte().permute(0, 1, 3, 4, 2).contiguous(), past


def _awaited(frames: Tensor, done: torch.cuda.Event) -> Tensor:
    done.synchronize()
    return frames
