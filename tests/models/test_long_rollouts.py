"""A block costs the same at any length of the video, in time and in memory."""

import gc
import statistics
import time
from itertools import islice

import pytest
import torch

from models.flow_matching import warped_sigmas
from models.kv_cache import RollingCache
from models.network_config import StudentConfig
from models.noise import BlockNoise
from models.sampler import stream_blocks
from models.wan.network import ComputeSpec, Wan
from tests.fakes.live_bytes import LiveBytes

FIRST, LAST = 40, 1600
"""Latent frames between which the cost is compared."""


def stream(start: int):
    """Make the blocks of a tiny student's video from latent frame `start` on."""
    student = StudentConfig()
    network = ComputeSpec().outline(student.wan)
    network.load_state_dict(Wan(student.wan).state_dict(), assign=True)
    noise = BlockNoise([0], (student.block_frames, *student.frame_shape))
    cache = RollingCache(student.wan, student.context_frames, frames=start)
    sigmas = warped_sigmas(student.timesteps, student.shift)
    return stream_blocks(network, torch.randn(1, student.wan.text_len, student.wan.text_dim), noise, sigmas, cache)


def cpu_seconds(blocks) -> float:
    began = time.thread_time()
    next(blocks)
    return time.thread_time() - began


@pytest.mark.proof
def test_a_block_costs_the_same_at_frame_1600_as_at_frame_40():
    """Blocks of one long video take turns with those of videos that begin anew: both meet the same clock."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        long, ratios = stream(0), []
        for _ in range(FIRST // 3):
            next(long)
        while len(ratios) < (LAST - FIRST) // 3:
            young = islice(stream(0), FIRST // 3, None)
            cpu_seconds(young)
            ratios += [cpu_seconds(long) / cpu_seconds(young) for _ in range(40)]
    finally:
        torch.set_num_threads(threads)
    assert statistics.median(ratios[-260:]) == pytest.approx(1, abs=0.03)


def test_a_full_cache_holds_as_many_bytes_at_frame_1600_and_at_frame_40():
    held = []
    for start in (0, FIRST, LAST):
        blocks = stream(start)
        for _ in range(8):
            next(blocks)
        gc.collect()
        with LiveBytes() as counted:
            for _ in range(4):
                next(blocks)
        held.append((sum(size for storage, size in counted.held.values() if not storage.expired()), counted.peak))
        del blocks
    assert held[0] == held[1] == held[2]
