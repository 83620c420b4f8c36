"""Wan's VAE streams on a GPU in bfloat16 at 480x832: fake tensors, because the null GPU has no cuDNN."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch._subclasses.fake_tensor import FakeTensorMode

from models.wan.vae import WanCodec
from models.worlds.video_codec import window_image_latents
from tests.device.guard import Guard, HostWaits, Misplaced


@pytest.fixture(scope="module")
def fake():
    return FakeTensorMode()


@pytest.fixture(scope="module")
def codec(fake):
    torch.set_default_dtype(torch.bfloat16)  # fake weights cannot be cast
    try:
        with fake, torch.device("cuda"):
            return WanCodec(AutoencoderKLWan())
    finally:
        torch.set_default_dtype(torch.float32)


def test_blocks_decode_on_the_gpu_and_caches_stay_there(fake, codec):
    past = None
    with fake, Guard() as guard:
        for frames in (9, 12):
            guard.inside = 2  # no read by the host in a block
            pixels, past = codec.decode(torch.empty(1, 3, 16, 60, 104, device="cuda"), past)
            assert pixels.shape == (1, frames, 3, 480, 832) and pixels.device.type == "cuda"
    tensors = [cache for cache in past if isinstance(cache, torch.Tensor)]
    assert {(cache.device.type, cache.dtype) for cache in tensors} == {("cuda", torch.bfloat16)}
    held = sum(cache.numel() * cache.element_size() for cache in tensors)
    assert held == pytest.approx(1.9e9, rel=0.02)


def test_image_latents_stay_on_the_gpu(fake, codec):
    frames = torch.Size((16, 60, 104))
    with fake, Guard():
        images = window_image_latents(
            codec, torch.empty(2, *frames, device="cuda"), torch.empty(1, *frames, device="cuda")
        )
    assert images.shape == (1, *frames) and images.device.type == "cuda"


def test_a_mean_on_the_cpu_is_caught(fake, codec, monkeypatch):
    with fake:
        monkeypatch.setattr(codec, "mean", torch.zeros(16, 1, 1, 1))
    with pytest.raises(Misplaced), fake, Guard():
        codec.decode(torch.empty(1, 1, 16, 60, 104, device="cuda"))


def test_a_read_by_the_host_is_caught(fake):
    with pytest.raises(HostWaits), fake, Guard() as guard:
        guard.inside = 2
        torch.ones(1, device="cuda").item()
