"""Decode latents to the bytes of a video block by block, on a GPU while the next block is denoised."""

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any

import torch
from torch import Tensor

from models.worlds.video_codec import VideoCodec

_IN_FLIGHT = 2
"""Blocks decoded but not yet shown, plus those in the making: one of each."""
_PATIENCE_S = 10.0
"""Seconds that an end waits for decoded frames to be shown: the reader of a pipe may have stopped reading."""
Decoded = tuple[Tensor, Callable[[], None]]
"""Frames, and a call that returns when they are on the CPU."""


def show_blocks(
    latents: Iterable[Tensor], codec: VideoCodec, device: torch.device, show: Callable[[Tensor], None]
) -> None:
    """Decode each block of latents [B F C H W] and pass its frames, uint8 [B T H W 3] on the CPU, to `show`, in order.

    `show` runs in a thread of its own, as soon as the frames arrive. On a GPU `latents` must not wait for the device:
    then it works on the next block while this one is decoded, copied and shown. Raises whatever `latents` or `show`
    raises, an interrupt too, after all frames decoded before are shown, if that takes seconds only.
    """
    decoded = _decode_on_gpu(latents, codec, device) if device.type == "cuda" else _decode_in_turn(latents, codec)
    waiting: SimpleQueue[Decoded | None] = SimpleQueue()
    room, failures = Semaphore(_IN_FLIGHT), []
    thread = Thread(target=_show_waiting, args=(waiting, show, room, failures), daemon=True)
    thread.start()
    try:
        while room.acquire() and not failures and (block := next(decoded, None)) is not None:
            waiting.put(block)
        waiting.put(None)
        thread.join()
    except BaseException:
        waiting.put(None)
        thread.join(_PATIENCE_S)
        raise
    if failures:
        raise failures[0]


def _show_waiting(
    waiting: "SimpleQueue[Decoded | None]",
    show: Callable[[Tensor], None],
    room: Semaphore,
    failures: list[BaseException],
) -> None:
    try:
        while (block := waiting.get()) is not None:
            frames, arrived = block
            arrived()
            show(frames)
            room.release()
    except BaseException as error:  # raised where the blocks are made
        failures.append(error)
        room.release()


def _decode_in_turn(latents: Iterable[Tensor], codec: VideoCodec) -> Iterator[Decoded]:
    past = None
    for x0 in latents:
        frames, past = _decode(codec, x0, past)
        yield frames, lambda: None


def _decode_on_gpu(latents: Iterable[Tensor], codec: VideoCodec, device: torch.device) -> Iterator[Decoded]:
    denoising, decoding = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    past = None
    for x0 in latents:
        decoding.wait_stream(denoising)
        with torch.cuda.stream(decoding):
            frames, past = _decode(codec, x0, past)
            frames = frames.to("cpu", non_blocking=True)  # into pinned memory, when the device comes to it
            arrived = decoding.record_event()
        x0.record_stream(decoding)  # or denoising could write into its memory before it was read
        yield frames, arrived.synchronize


def _decode(codec: VideoCodec, x0: Tensor, past: Any) -> tuple[Tensor, Any]:
    pixels, past = codec.decode(x0, past)
    return (pixels.float() * 255).round().byte().permute(0, 1, 3, 4, 2).contiguous(), past
