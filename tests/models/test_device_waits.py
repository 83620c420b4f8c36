"""Nothing in a block waits for the device: whoever makes blocks is ahead of it, and can decode and write meanwhile.

A network without memory (device "meta") refuses to give a value back, as reading one from a GPU would wait for it.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.network_config import TINY
from models.noise import BlockNoise, MemberNoise
from models.sampler import stream_blocks
from models.wan.network import Wan
from models.wan.vae import WanCodec

SHAPE = 3, TINY.in_channels, 8, 8
SIGMAS = warped_sigmas([1000, 500], shift=3)


class Sent(TorchFunctionMode):
    """Notes what goes from the CPU to the device: the name of the function, and whether it waits until it is there."""

    def __init__(self):
        super().__init__()
        self.waits: list[tuple[str, bool]] = []

    def __torch_function__(self, function, types, args=(), kwargs: dict[str, Any] | None = None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        made_of_numbers = function in (torch.tensor, torch.as_tensor)
        if isinstance(out, Tensor) and out.is_meta and (made_of_numbers or any(not x.is_meta for x in given)):
            self.waits.append((function.__name__, not kwargs.get("non_blocking", False)))
        return out


@pytest.mark.parametrize("sink", [0, 3])
@pytest.mark.parametrize("of_a_group", [False, True])
def test_a_block_sends_its_noise_to_the_device_without_waiting_and_nothing_else(sink, of_a_group):
    device, config = torch.device("meta"), replace(TINY, num_layers=2)
    with device:
        student = Wan(config)
    noise = MemberNoise(3, 0, 2, (1,), 1.0, False, SHAPE, device) if of_a_group else BlockNoise([1, 2], SHAPE, device)
    blocks = stream_blocks(
        student, torch.zeros(2, 5, TINY.text_dim, device=device), noise, SIGMAS, KVCache(config, 3, sink)
    )
    for _ in range(4):
        with Sent() as sent:
            next(blocks)
        assert sent.waits == [("to", False)] * len(SIGMAS)


def test_decoding_a_block_sends_nothing_to_the_device():
    with torch.device("meta"):
        codec = WanCodec(
            AutoencoderKLWan(
                base_dim=4, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, latents_mean=[0.0] * 4,
                latents_std=[1.0] * 4,
            )
        )  # fmt: skip
    past = None
    for _ in range(3):
        with Sent() as sent:
            _, past = codec.decode(torch.zeros(1, 3, 4, 4, 4, device="meta"), past)
        assert not sent.waits


@pytest.mark.parametrize("waiting", [lambda x: torch.tensor([1.0], device=x.device), lambda x: torch.ones(1).to(x)])
def test_a_wait_would_be_noted(waiting):
    with Sent() as sent:
        waiting(torch.zeros(1, device="meta"))
    assert [wait for _, wait in sent.waits] == [True]


@pytest.mark.parametrize("read", [Tensor.item, Tensor.tolist, Tensor.cpu, bool])
def test_a_value_that_is_read_would_be_refused(read):
    with pytest.raises((RuntimeError, NotImplementedError), match=r"\bmeta\b"):
        read(torch.zeros(1, device="meta"))
