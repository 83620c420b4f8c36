"""Stream videos block by block, of any length in constant memory: latents, then the bytes of their frames.

On a GPU a block is decoded while the next one is denoised.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any

import torch
from torch import Tensor

from models.causal import write_block
from models.flow_matching import warped_sigmas
from models.kv_cache import RollingCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import Wan
from models.worlds.video_codec import VideoCodec, video_frames

_IN_FLIGHT = 2
"""Blocks decoded but not yet shown, plus those in the making: one of each."""
_PATIENCE_S = 10.0
"""Longest wait at the end for decoded frames, in seconds. The reader of a pipe may have stopped reading."""
Decoded = tuple[Tensor, Callable[[], None]]
"""Frames, and a call that returns when they are on the CPU."""


@dataclass(frozen=True)
class Scene:
    """Holds the prompts of a batch of videos from one frame on, until the next scene begins."""

    first: int
    text: Tensor
    """[B S text_dim]."""


def text_at(scenes: Sequence[Scene], codec: VideoCodec, latent_frames: int) -> Tensor:
    """Return the prompts [B S text_dim] of the block behind `latent_frames` frames: of the scene it wholly lies in."""
    shown = video_frames(codec, latent_frames)
    return next((scene for scene in reversed(scenes) if scene.first <= shown), scenes[0]).text


@dataclass(frozen=True)
class RecacheBuffer:
    """Holds the clean latents that the cache was made from."""

    empty: RollingCache
    sink: tuple[Tensor, ...] = ()
    window: tuple[Tensor, ...] = ()
    """Pieces [B F C H W], as they were read."""

    def add(self, x0: Tensor) -> "RecacheBuffer":
        if _frames(self.sink) < self.empty.sink_frames:
            return replace(self, sink=(*self.sink, x0))
        window = (*self.window, x0)
        while window and _frames(window[1:]) >= self.empty.context_frames:
            window = window[1:]
        return replace(self, window=window)

    def read_again(self, student: Wan, text: Tensor, frames: int) -> RollingCache:
        """Rebuild the cache of the same `frames` frames as if their prompt had been `text`.

        An approximation where the window has rolled: the oldest remembered frames are read without those that
        they saw when they were made.
        """
        text_keys_values, cache = student.text_keys_values(text), self.empty.emptied(0)
        for x0 in self.sink:
            cache = write_block(student, x0, text_keys_values, cache)
        cache.frames = frames - _frames(self.window)
        for x0 in self.window:
            cache = write_block(student, x0, text_keys_values, cache)
        return cache


def _frames(pieces: Sequence[Tensor]) -> int:
    return sum(piece.shape[1] for piece in pieces)


@torch.no_grad()
def begin_cache(
    student: Wan, shape: StudentConfig, text: Tensor, given: Tensor | None
) -> tuple[RollingCache, RecacheBuffer]:
    """Make the cache of videos that begin with the clean latents `given` [B F C H W], and what it was made from."""
    # Less than a block, as a picture, is beside the sink, not in its place.
    odd = given.shape[1] if given is not None and given.shape[1] < max(2, shape.block_frames) else 0
    cache = RollingCache(shape.wan, shape.context_frames, shape.sink_frames + (odd if shape.sink_frames else 0))
    remembered = RecacheBuffer(cache.emptied(0))
    if given is not None:
        text_keys_values = student.text_keys_values(text)
        for piece in given.split(odd or shape.block_frames, dim=1):
            cache = write_block(student, piece, text_keys_values, cache)
            remembered = remembered.add(piece)
    return cache, remembered


@torch.no_grad()
def stream_latents(
    student: Wan,
    shape: StudentConfig,
    scenes: Sequence[Scene],
    noise: BlockNoise,
    codec: VideoCodec,
    frames: float,
    start: Tensor | None = None,
    recache: bool = False,
) -> Iterator[Tensor]:
    """Yield clean latents [B F C H W] block by block, up to `frames` video frames or forever.

    A scene begins with the first block that lies wholly in it; `recache` then reads the remembered frames again under
    the new prompt. The videos begin with the frames `start` [B T 3 H W], which come first, as one piece: a picture, or
    the last frames of a clip, whole blocks of them where it has as many. Nothing here waits for the device.
    """
    sigmas = warped_sigmas(shape.timesteps, shape.shift)
    given = None if start is None else codec.encode(start)
    cache, remembered = begin_cache(student, shape, scenes[0].text, given)
    if given is not None:
        yield given
    ends = [min(scene.first, frames) for scene in scenes[1:]] + [frames]
    for scene, end in zip(scenes, ends, strict=True):
        if video_frames(codec, cache.frames) >= end:
            continue  # over before a block of it begins
        if recache and scene is not scenes[0]:
            cache = remembered.read_again(student, scene.text, cache.frames)
        for block in stream_blocks(student, scene.text, noise, sigmas, cache):
            cache = block.cache
            if recache:
                remembered = remembered.add(block.x0)
            yield block.x0
            if video_frames(codec, cache.frames) >= end:
                break


def make_videos(
    student: Wan,
    shape: StudentConfig,
    prompts: Sequence[str],
    seeds: Sequence[int],
    frames: int,
    encode_text: Callable[[Sequence[str]], Tensor],
    progress: Callable[[int], None],
) -> Tensor:
    """Make one video per prompt, `frames` latent frames long, for evaluation and reports: latents [B F C H W].

    `progress` receives the number of finished frames.
    """
    noise = BlockNoise(seeds, (shape.block_frames, *shape.frame_shape))
    cache = RollingCache(shape.wan, shape.context_frames, shape.sink_frames)
    blocks = stream_blocks(student, encode_text(prompts), noise, warped_sigmas(shape.timesteps, shape.shift), cache)
    parts = []
    for done in range(shape.block_frames, frames + 1, shape.block_frames):
        parts.append(next(blocks).x0)
        progress(done)
    return torch.cat(parts, dim=1)


def show_blocks(
    latents: Iterable[Tensor], codec: VideoCodec, device: torch.device, show: Callable[[Tensor], None]
) -> None:
    """Decode blocks of latents [B F C H W] and pass their frames, uint8 [B T H W 3], to `show`.

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
        frames, past = decoded_frames(codec, x0, past)
        yield frames, lambda: None


def _decode_on_gpu(latents: Iterable[Tensor], codec: VideoCodec, device: torch.device) -> Iterator[Decoded]:
    denoising, decoding = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    past = None
    for x0 in latents:
        decoding.wait_stream(denoising)
        with torch.cuda.stream(decoding):
            frames, past = decoded_frames(codec, x0, past)
            frames = frames.to("cpu", non_blocking=True)  # into pinned memory, in the device's order of work
            arrived = decoding.record_event()
        x0.record_stream(decoding)  # or denoising could write into its memory before it was read
        yield frames, arrived.synchronize


def decoded_frames(codec: VideoCodec, x0: Tensor, past: Any) -> tuple[Tensor, Any]:
    """Decode a block of latents: frames [B T H W 3] uint8 on its device, and the codec's state behind them."""
    pixels, past = codec.decode(x0, past)
    return (pixels.float() * 255).round().byte().permute(0, 1, 3, 4, 2).contiguous(), past
