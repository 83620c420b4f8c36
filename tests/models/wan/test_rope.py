import cmath
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.kv_cache import KVCache
from models.network_config import WanConfig
from models.sampler import stream_blocks
from models.wan.network import Wan
from models.wan.rope import rotary_positions, rotate, shift_frames

CONFIG = WanConfig(
    num_attention_heads=2, attention_head_dim=22, in_channels=2, out_channels=2, text_dim=8, freq_dim=16,
    ffn_dim=32, num_layers=3,
)  # fmt: skip
HEIGHT, WIDTH = 4, 6
ROWS, COLUMNS = CONFIG.grid(HEIGHT, WIDTH)
few = settings(max_examples=20, deadline=None)
frame_numbers = st.integers(0, 300_000)


def vectors(frames: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Queries or keys [1 L H head_dim]."""
    generator = torch.Generator().manual_seed(seed)
    size = 1, frames * ROWS * COLUMNS, CONFIG.num_attention_heads, CONFIG.attention_head_dim
    return torch.randn(size, generator=generator, dtype=dtype)


def positions(start: int, frames: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return rotary_positions(CONFIG, start, frames, HEIGHT, WIDTH, like=torch.empty(0, dtype=dtype))


def turned_slowly(x: Tensor, start: int, frames: int) -> Tensor:
    """Every pair as a complex number times exp(i position / 10000^(2j / dim)), axis after axis."""
    out = x.clone()
    tokens = product(range(start, start + frames), range(ROWS), range(COLUMNS))
    for token, place in enumerate(tokens):
        first = 0
        for position, dim in zip(place, CONFIG.rotary_dims, strict=True):
            for j in range(0, dim, 2):
                turn = cmath.exp(1j * position / 10_000 ** (j / dim))
                for head in range(CONFIG.num_attention_heads):
                    a, b = x[0, token, head, first + j : first + j + 2].tolist()
                    z = complex(a, b) * turn
                    out[0, token, head, first + j] = z.real
                    out[0, token, head, first + j + 1] = z.imag
            first += dim
    return out


@pytest.mark.parametrize("start", [0, 1023, 300_000])
def test_rotation_is_multiplication_by_a_complex_number_on_each_of_three_axes(start):
    x = vectors(2, seed=0)
    torch.testing.assert_close(rotate(x, positions(start, 2)), turned_slowly(x, start, 2), rtol=0, atol=1e-9)


@few
@given(frame=frame_numbers)
def test_a_position_in_float32_is_as_exact_at_frame_300000_as_at_frame_0(frame):
    for rough, exact in zip(positions(frame, 1, torch.float32), positions(frame, 1), strict=True):
        assert (rough - exact).abs().max() <= 2**-24


@few
@given(first=frame_numbers, second=frame_numbers, seed=st.integers(0, 99))
def test_attention_scores_depend_on_differences_of_positions_only(first, second, seed):
    queries, keys = vectors(3, seed), vectors(3, seed + 100)
    here, there = (
        torch.einsum("bqhd,bkhd->bhqk", rotate(queries, where), rotate(keys, where))
        for where in (positions(first, 3), positions(second, 3))
    )
    torch.testing.assert_close(here, there, rtol=0, atol=1e-8)


@few
@given(start=frame_numbers, shift=st.integers(-300_000, 300_000), seed=st.integers(0, 99))
def test_rotating_and_then_shifting_is_rotating_to_the_later_frame(start, shift, seed):
    x = vectors(2, seed)
    moved = shift_frames(CONFIG, rotate(x, positions(start, 2)), shift)
    torch.testing.assert_close(moved, rotate(x, positions(start + shift, 2)), rtol=0, atol=1e-8)


@few
@given(first=frame_numbers, second=frame_numbers)
def test_shifts_add_up_and_a_shift_back_undoes_a_shift(first, second):
    x = vectors(1, seed=3)
    twice = shift_frames(CONFIG, shift_frames(CONFIG, x, first), second)
    torch.testing.assert_close(twice, shift_frames(CONFIG, x, first + second), rtol=0, atol=1e-8)
    torch.testing.assert_close(shift_frames(CONFIG, shift_frames(CONFIG, x, first), -first), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_rotation_keeps_lengths_and_the_dtype(dtype):
    x = vectors(2, seed=4).to(dtype)
    out = rotate(x, positions(1021, 2, dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float().norm(dim=-1), x.float().norm(dim=-1), rtol=2e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rotation_on_a_cpu_computes_in_float32_and_rounds_once(dtype):
    x, (cosine, sine) = vectors(2, seed=5).to(dtype), positions(7, 2, torch.float32)
    even, odd = (x[..., first::2].double() for first in (0, 1))
    turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)
    torch.testing.assert_close(rotate(x, (cosine, sine)).double(), turned, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


class NoiseOf:
    """Noise that counts blocks from the first one drawn, wherever in time the video begins."""

    block_shape = (2, CONFIG.in_channels, HEIGHT, WIDTH)

    def __init__(self, first_block: int):
        self.first_block = first_block

    def draw(self, block: int, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(100 * (block - self.first_block) + step)
        return torch.randn(1, *self.block_shape, generator=generator, dtype=torch.float64)


def video(start: int, sink_frames: int, blocks: int = 6) -> Tensor:
    """A rollout in float64 of a network with random weights, its first frame numbered `start`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = Wan(CONFIG).double()
        for p in student.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.3)
        text = torch.randn(1, 5, CONFIG.text_dim, dtype=torch.float64)
    cache = KVCache(CONFIG, context_frames=4, sink_frames=sink_frames, frames=start)
    made = stream_blocks(student, text, NoiseOf(start // 2), [1.0, 0.75], cache)
    return torch.cat([next(made).x0 for _ in range(blocks)], dim=1)


@pytest.mark.parametrize(("start", "bound"), [(2, 1e-10), (1018, 1e-10), (1022, 1e-10), (300_000, 1e-7)])
def test_a_rollout_does_not_depend_on_the_frame_number_it_starts_at_across_row_1024_too(start, bound):
    expected = video(0, sink_frames=0)
    assert (video(start, sink_frames=0) - expected).norm() <= bound * expected.norm()


def test_the_order_of_frames_matters_though_their_numbers_do_not():
    generator = torch.Generator().manual_seed(5)
    queries, keys = vectors(1, seed=6), torch.randn(1, 1, 1, 22, generator=generator, dtype=torch.float64)
    keys = keys.expand(1, ROWS * COLUMNS, 2, 22)
    scores = [
        torch.einsum("bqhd,bkhd->bhqk", rotate(queries, positions(10, 1)), rotate(keys, positions(at, 1)))
        for at in (8, 12)
    ]
    assert not torch.allclose(*scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("videos", [1, 2])
def test_the_fast_path_of_a_cpu_and_its_gradient_are_those_of_float64(videos):
    starts = 3 if videos == 1 else [3, 40]
    x = torch.randn(2, 4 * ROWS * COLUMNS, 2, CONFIG.attention_head_dim)
    upstream = torch.randn_like(x)
    made = {}
    for dtype in (torch.float32, torch.float64):
        own = x.detach().to(dtype, copy=True).requires_grad_()
        rotated = rotate(own, rotary_positions(CONFIG, starts, 4, HEIGHT, WIDTH, like=own))
        rotated.backward(upstream.to(dtype))
        made[dtype] = rotated.detach().double(), own.grad.double()
    for fast, exact in zip(*made.values(), strict=True):
        torch.testing.assert_close(fast, exact, rtol=0, atol=1e-6)
