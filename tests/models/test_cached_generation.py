"""A video made on the rolling cache is the one that diffusers' network makes without a cache.

The slow way shows diffusers' transformer the whole video again for every denoising step, finished frames at timestep 0,
under a boolean mask of who may look at whom. Nothing of our attention, cache or sampler is in it.
"""

from itertools import islice

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.network_config import TINY
from models.noise import BlockNoise
from models.sampler import stream_blocks
from tests.models.checkpoints.stock import same_weights, stock_class

BLOCK, SEEDS, HEIGHT, WIDTH = 3, [5, 6], 8, 8
TOKENS = TINY.tokens_per_frame(HEIGHT, WIDTH)
SIGMAS = warped_sigmas([1000, 750, 500, 250], shift=3)
NOISE = BlockNoise(SEEDS, (BLOCK, TINY.in_channels, HEIGHT, WIDTH))


def prompts() -> Tensor:
    """Texts [B S D] whose last rows are padding."""
    text = torch.randn(2, 7, TINY.text_dim, generator=torch.Generator().manual_seed(1))
    text[0, 4:], text[1, 5:] = 0, 0
    return text


class Masked:
    """diffusers' attention, told who may look at whom: its network has no argument for that."""

    def __init__(self, mask: Tensor):
        self.mask = mask

    def __call__(self, attention, hidden, text=None, mask=None, rotary=None) -> Tensor:
        return WanAttnProcessor()(attention, hidden, text, self.mask, rotary)


class Placed(nn.Module):
    """diffusers' rotary table, with the frames of a sequence at any places of a video."""

    def __init__(self, rope: nn.Module, places: list[int]):
        super().__init__()
        self.rope, self.places = rope, places

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        video = hidden.new_empty(1, hidden.shape[1], max(self.places) + 1, *hidden.shape[-2:])
        return tuple(table.unflatten(1, (-1, TOKENS))[:, self.places].flatten(1, 2) for table in self.rope(video))


def arranged(blocks: int, context: int, sink: int) -> tuple[list[int], list[int], Tensor]:
    """Of a sequence for the last of `blocks` blocks: the video frame that each frame shows, its place, and the mask.

    A block sees itself, the `context` frames before it that are no sink, and the sink where the window begins. There
    the sink stands as a copy of its own for every block from which the window has moved away, at other places.
    """
    frames = blocks * BLOCK
    shown, places = list(range(frames)), list(range(frames))
    sees: list[set[int]] = []
    for first in range(0, frames, BLOCK):
        own = set(range(first, first + BLOCK))
        window = set(range(max(sink, first - context), first))
        remembered, moved = set(range(min(sink, first))), first - sink - context
        if moved > 0 and sink:
            remembered = set(range(len(shown), len(shown) + sink))
            shown += range(sink)
            places += [frame + moved for frame in range(sink)]
        sees += [own | window | remembered] * BLOCK
    for copy in range(frames, len(shown)):
        begin = copy - shown[copy]
        sees.append(set(range(begin, begin + (shown[copy] // BLOCK + 1) * BLOCK)))
    mask = torch.zeros(len(shown), len(shown), dtype=torch.bool)
    for frame, seen in enumerate(sees):
        mask[frame, list(seen)] = True
    return shown, places, mask.repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1)[None, None]


def generated_slowly(stock: WanTransformer3DModel, blocks: int, context: int, sink: int) -> Tensor:
    """[B F C H W]."""
    text, video = prompts(), torch.zeros(len(SEEDS), 0, TINY.in_channels, HEIGHT, WIDTH)
    table = stock.rope
    for index in range(blocks):
        shown, places, mask = arranged(index + 1, context, sink)
        stock.rope = Placed(table, places)
        for layer in stock.blocks:
            layer.attn1.set_processor(Masked(mask))
        last = slice(index * BLOCK, (index + 1) * BLOCK)
        x0 = torch.zeros(NOISE.draw(index, 0).shape)
        for step, sigma in enumerate(SIGMAS):
            x_t = (1 - sigma) * x0 + sigma * NOISE.draw(index, step)
            timestep = torch.zeros(len(shown))
            timestep[last] = 1000 * sigma
            per_token = timestep.repeat_interleave(TOKENS).expand(len(SEEDS), -1)
            sequence = torch.cat([video, x_t], dim=1)[:, shown].transpose(1, 2)
            x0 = x_t - sigma * stock(sequence, per_token, text).sample.transpose(1, 2)[:, last]
        video = torch.cat([video, x0], dim=1)
    return video


def generated_fast(stock: WanTransformer3DModel, blocks: int, context: int, sink: int) -> Tensor:
    """[B F C H W]."""
    made = stream_blocks(same_weights(stock, TINY), prompts(), NOISE, SIGMAS, KVCache(TINY, context, sink))
    return torch.cat([block.x0 for block in islice(made, blocks)], dim=1)


def distances(one: Tensor, other: Tensor) -> list[float]:
    """Relative, of each block."""
    pairs = zip(one.split(BLOCK, dim=1), other.split(BLOCK, dim=1), strict=True)
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


@pytest.mark.parametrize(("context", "sink"), [(9, 0), (9, 3), (6, 6), (3, 0), (0, 0)])
def test_cached_generation_equals_diffusers_network_with_an_explicit_mask_past_three_rolls_of_the_cache(context, sink):
    stock = stock_class(TINY, torch.float32)
    blocks = (sink + 4 * context) // BLOCK + 3  # the cache is filled, and three times all of it is replaced
    fast, slow = generated_fast(stock, blocks, context, sink), generated_slowly(stock, blocks, context, sink)
    assert max(distances(fast, slow)) <= 2e-6


@pytest.mark.parametrize(("context", "sink", "first"), [(6, 0, 3), (12, 0, 4), (9, 3, 4)])
def test_another_window_or_a_sink_would_be_seen_in_every_block_that_it_reaches(context, sink, first):
    """Four orders above the bound: what the law says of the cache it does not say of a network that ignores it."""
    stock = stock_class(TINY, torch.float32)
    apart = distances(generated_fast(stock, 8, context, sink), generated_fast(stock, 8, 9, 0))
    assert max(apart[:first]) == 0 and min(apart[first:]) > 2e-3
