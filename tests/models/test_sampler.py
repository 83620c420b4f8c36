from itertools import islice

import pytest
import torch
from torch import Tensor

from models.causal import denoise_block, write_block
from models.flow_matching import warped_sigmas
from models.kv_cache import KVCache
from models.network_config import WanConfig
from models.noise import BlockNoise, MemberNoise
from models.sampler import SampledBlock, stream_blocks, teacher_states
from models.wan.network import Wan

CONFIG = WanConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=2, out_channels=2, text_dim=8, freq_dim=16,
    ffn_dim=32, num_layers=2,
)  # fmt: skip
BLOCK = (2, 2, 2, 4)
SIGMAS = warped_sigmas([1000, 750, 500, 250], shift=3)


def network(seed: int = 0) -> Wan:
    """Random weights, with gates and norms far from their initial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = Wan(CONFIG).requires_grad_(False)
        for p in student.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return student


def text_of(seeds: list[int]) -> Tensor:
    """A text [B S D] per seed."""
    drawn = [torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn)


def stream(student: Wan, seeds: list[int], context_frames: int = 4):
    noise, cache = BlockNoise(seeds, BLOCK), KVCache(CONFIG, context_frames)
    return stream_blocks(student, text_of(seeds), noise, SIGMAS, cache)


def video(blocks: list[SampledBlock]) -> Tensor:
    return torch.cat([block.x0 for block in blocks], dim=1)


def test_a_block_is_the_few_step_sampler_written_slowly():
    student, seeds = network(), [3, 4]
    text, cache = student.text_keys_values(text_of(seeds)), KVCache(CONFIG, context_frames=4)
    for made in islice(stream(student, seeds), 4):
        x0 = None
        for step, sigma in enumerate(SIGMAS):
            noise = BlockNoise(seeds, BLOCK).draw(made.index, step)
            x_t = noise if x0 is None else (1 - sigma) * x0 + sigma * noise
            torch.testing.assert_close(made.inputs[step], x_t, rtol=1e-5, atol=1e-5)
            x0 = x_t - sigma * denoise_block(student, x_t, torch.full((2, 2), 1000 * sigma), text, cache)
        torch.testing.assert_close(made.x0, x0, rtol=1e-5, atol=1e-5)
        cache = write_block(student, made.x0, text, cache)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_every_block_of_a_rollout_runs_all_its_denoising_steps(steps):
    student, passes = network(), []
    student.proj_out.register_forward_hook(lambda *_: passes.append(1))  # only denoising reaches the last layer
    cache = KVCache(CONFIG, context_frames=4)
    blocks = stream_blocks(student, text_of([1]), BlockNoise([1], BLOCK), SIGMAS[:steps], cache)
    for number, block in enumerate(islice(blocks, 5), start=1):
        assert len(passes) == number * steps == number * len(block.inputs)


def test_the_first_input_of_a_block_is_pure_noise_of_its_place():
    for index, block in enumerate(islice(stream(network(), [5, 6]), 3)):
        assert block.index == index
        assert torch.equal(block.inputs[0], BlockNoise([5, 6], BLOCK).draw(index, 0))


def test_the_same_video_comes_out_alone_and_in_any_batch():
    student = network()
    together = video(list(islice(stream(student, [7, 8, 9]), 6)))
    for i, seed in enumerate([7, 8, 9]):
        alone = video(list(islice(stream(student, [seed]), 6)))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


def test_the_same_seeds_give_the_same_video_bit_by_bit_and_others_another():
    student = network()
    first, again, other = (video(list(islice(stream(student, [seed]), 4))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=0.1, atol=0.1)


def test_weights_swapped_between_two_blocks_change_later_blocks_only():
    student = network()
    kept = video(list(islice(stream(student, [1]), 5)))
    blocks = stream(student, [1])
    before = video(list(islice(blocks, 2)))
    student.load_state_dict(network(seed=1).state_dict())
    after = video(list(islice(blocks, 3)))
    assert torch.equal(before, kept[:, :4])
    for new, old in zip(after.split(2, 1), kept[:, 4:].split(2, 1), strict=True):
        assert not torch.allclose(new, old, rtol=1e-2, atol=1e-2)


def test_a_block_after_a_swap_is_made_of_new_weights_and_the_old_past():
    old, new, seeds = network(), network(seed=1), [1]
    student = network()
    blocks = stream(student, seeds)
    first = next(blocks)
    student.load_state_dict(new.state_dict())
    second = next(blocks)
    cache = write_block(old, first.x0, old.text_keys_values(text_of(seeds)), KVCache(CONFIG, 4))
    expected = next(stream_blocks(new, text_of(seeds), BlockNoise(seeds, BLOCK), SIGMAS, cache))
    assert torch.equal(second.x0, expected.x0)


EVERY_STEP = tuple(range(len(SIGMAS)))


def forked(
    student: Wan, seeds: list[int], row: int, blocks: int, members: int, shared: tuple[int, ...]
) -> list[SampledBlock]:
    """Three blocks of continuations of one of the videos, forked behind its first `blocks`."""
    caches = [KVCache(CONFIG, 4), *(block.cache for block in islice(stream(student, seeds), blocks))]
    noise = MemberNoise(seeds[row], 0, members, shared, 1.0, False, BLOCK)
    text = text_of([seeds[row]]).expand(members, -1, -1)
    return list(islice(stream_blocks(student, text, noise, SIGMAS, caches[blocks].fork(row)), 3))


@pytest.mark.parametrize("blocks", [0, 1, 5])
def test_a_fork_of_one_member_that_shares_all_noise_is_the_video_itself_bit_by_bit(blocks):
    student = network()
    itself = list(islice(stream(student, [3]), blocks + 3))[blocks:]
    for one, other in zip(forked(student, [3], 0, blocks, 1, EVERY_STEP), itself, strict=True):
        assert one.index == other.index and torch.equal(one.x0, other.x0)
        assert all(torch.equal(*inputs) for inputs in zip(one.inputs, other.inputs, strict=True))
        assert all(torch.equal(*predicted) for predicted in zip(one.predictions, other.predictions, strict=True))


@pytest.mark.parametrize("row", [0, 2])
def test_members_that_share_all_noise_are_all_the_video_that_they_were_forked_from(row):
    student, seeds = network(), [3, 4, 5]
    itself = video(list(islice(stream(student, [seeds[row]]), 8))[5:])
    members = video(forked(student, seeds, row, 5, 4, EVERY_STEP))
    torch.testing.assert_close(members, itself.expand(4, *itself.shape[1:]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own", EVERY_STEP)
def test_members_part_at_the_step_whose_noise_is_their_own_and_not_before(own):
    shared = tuple(step for step in EVERY_STEP if step != own)
    first, *_, last = forked(network(), [3, 4], 1, 5, 3, shared)
    for step, inputs in enumerate(first.inputs):
        same = [torch.allclose(inputs[0], other, rtol=1e-5, atol=1e-5) for other in inputs[1:]]
        assert same == ([True, True] if step < own else [False, False])
    assert not torch.allclose(last.x0[0], last.x0[1], rtol=1e-3, atol=1e-3)


def test_a_member_is_the_same_among_few_and_among_many():
    student = network()
    few, many = (video(forked(student, [3, 4], 1, 5, members, (0,))) for members in (2, 5))
    torch.testing.assert_close(few, many[:2], rtol=1e-5, atol=1e-5)


def test_a_block_says_what_was_predicted_at_each_step_and_the_cache_behind_it():
    student, seeds = network(), [3, 4]
    blocks = list(islice(stream(student, seeds), 4))
    for made in blocks:
        assert len(made.predictions) == len(SIGMAS) and torch.equal(made.predictions[-1], made.x0)
        for step in range(1, len(SIGMAS)):
            noise, sigma = BlockNoise(seeds, BLOCK).draw(made.index, step), SIGMAS[step]
            drawn = (1 - sigma) * made.predictions[step - 1] + sigma * noise
            torch.testing.assert_close(made.inputs[step], drawn, rtol=1e-6, atol=1e-6)
    assert [made.cache.frames for made in blocks] == [2, 4, 6, 8]


def test_no_block_carries_a_graph_although_the_weights_want_gradients():
    block = next(stream(network().requires_grad_(True), [1]))
    assert not block.x0.requires_grad and not any(x_t.requires_grad for x_t in block.inputs)


def test_a_teacher_trajectory_is_eulers_method_with_guidance_written_slowly():
    teacher, text, free = network(), text_of([1, 2]), torch.zeros(1, 5, 8)
    noise = torch.randn(2, 6, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    sigmas = [1.0, 0.9, 0.5, 0.2]
    states = list(teacher_states(teacher, text, free, noise, sigmas, guidance=2.5))
    assert len(states) == 5 and torch.equal(states[0], noise)
    x = noise
    for i, sigma in enumerate(sigmas):
        with_prompt = teacher(x, torch.full((2,), 1000 * sigma), text)
        without = teacher(x, torch.full((2,), 1000 * sigma), free.repeat(2, 1, 1))
        x = x + ([*sigmas, 0.0][i + 1] - sigma) * (without + 2.5 * (with_prompt - without))
        torch.testing.assert_close(states[i + 1], x, rtol=1e-4, atol=1e-4)
