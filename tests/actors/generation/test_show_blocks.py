"""Decoded frames are those of the whole video, in order, wherever they are decoded."""

from collections.abc import Iterable, Iterator
from threading import Event, Semaphore

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from actors.generation.streaming import show_blocks
from models.wan.vae import WanCodec

CPU = torch.device("cpu")
LATENTS = torch.randn(2, 10, 4, 4, 6, generator=torch.Generator().manual_seed(1))


def codec(device: torch.device = CPU) -> WanCodec:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, latents_mean=[0.1] * 4,
            latents_std=[1.5] * 4,
        )  # fmt: skip
    return WanCodec(vae.to(device))


def at_once() -> Tensor:
    pixels, _ = codec().decode(LATENTS)
    return (255 * pixels).round().to(torch.uint8).permute(0, 1, 3, 4, 2)


def shown(latents: Iterable[Tensor], device: torch.device = CPU) -> list[Tensor]:
    frames: list[Tensor] = []
    show_blocks(latents, codec(device), device, frames.append)
    return frames


@pytest.mark.parametrize("sizes", [[10], [1, 3, 3, 3], [3, 3, 3, 1]])
def test_frames_are_those_of_the_video_decoded_at_once_as_bytes(sizes):
    frames = shown(LATENTS.split(sizes, dim=1))
    assert [part.shape[1] for part in frames] == [1 + 4 * (sizes[0] - 1), *(4 * size for size in sizes[1:])]
    assert (torch.cat(frames, dim=1).int() - at_once().int()).abs().max() <= 1  # half a byte is rounded either way
    assert at_once().float().std() > 5


def test_a_block_is_shown_while_the_next_one_is_being_made():
    frames, arrived = [], Semaphore(0)

    def show(block: Tensor) -> None:
        frames.append(block)
        arrived.release()

    def made() -> Iterator[Tensor]:
        for number, x0 in enumerate(LATENTS.split(5, dim=1)):
            if number:
                assert arrived.acquire(timeout=60) and len(frames) == number
            yield x0

    show_blocks(made(), codec(), CPU, show)
    assert len(frames) == 2


def test_no_more_than_two_blocks_are_decoded_and_not_shown():
    asked, ahead = [], []

    def made() -> Iterator[Tensor]:
        for x0 in LATENTS.split(2, dim=1):
            asked.append(0)
            yield x0

    show_blocks(made(), codec(), CPU, lambda _: ahead.append(len(asked) - len(ahead)))
    assert len(ahead) == 5 and max(ahead) <= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_was_decoded_is_shown_before_an_exception_rises(error):
    frames, held = [], Event()

    def show(block: Tensor) -> None:
        assert held.wait(60)  # it waits when the making of the second ends
        frames.append(block)

    def made() -> Iterator[Tensor]:
        yield from LATENTS.split(5, dim=1)[:1]
        held.set()
        raise error

    with pytest.raises(error):
        show_blocks(made(), codec(), CPU, show)
    assert len(frames) == 1


def test_who_does_not_read_delays_an_end_but_does_not_prevent_it(monkeypatch):
    monkeypatch.setattr("actors.generation.streaming._PATIENCE_S", 0.01)
    read = Event()

    def made() -> Iterator[Tensor]:
        yield LATENTS[:, :1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show_blocks(made(), codec(), CPU, lambda _: read.wait(60))
    read.set()


def test_where_a_block_cannot_be_shown_no_more_are_made_and_the_reason_rises():
    asked = []

    def made() -> Iterator[Tensor]:
        while True:
            asked.append(0)
            yield LATENTS[:, :1]

    def show(block: Tensor) -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        show_blocks(made(), codec(), CPU, show)
    assert len(asked) <= 3


@pytest.mark.gpu
def test_on_a_gpu_frames_are_the_same_and_come_while_the_next_block_is_being_made(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    device, begun = torch.device("cuda"), []

    def made() -> Iterator[Tensor]:
        for x0 in LATENTS.to(device).split([1, 3, 3, 3], dim=1):
            torch.cuda._sleep(1_000_000_000)  # cycles, about half a second: a block that is long in the making
            begun.append(torch.cuda.current_stream().record_event())
            yield x0 * 1

    frames, overlapped = [], []

    def show(block: Tensor) -> None:
        frames.append(block.clone())
        overlapped.append(not begun[-1].query())

    show_blocks(made(), codec(device), device, show)
    assert overlapped == [True, True, True, False]
    assert (torch.cat(frames, dim=1).int() - at_once().int()).abs().max() <= 1


@pytest.mark.gpu
def test_on_a_gpu_neither_denoising_nor_decoding_waits_for_the_device_but_for_frames_that_are_shown():
    device = torch.device("cuda")
    blocks = [x0.to(device) for x0 in LATENTS.split([1, 3, 3, 3], dim=1)]
    shown(blocks, device)  # libraries load
    used = codec(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        show_blocks(blocks, used, device, lambda _: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
