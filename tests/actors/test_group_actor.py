"""Groups against the few-step sampler written slowly, member by member and step by step."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from actors.group_actor import GroupActor
from actors.rollout_config import WindowConfig
from models.causal import denoise_block, write_block
from models.flow_matching import add_noise, warped_sigmas
from models.kv_cache import KVCache
from models.noise import BlockNoise, generator_for
from models.records import GRPO, SENTINEL, Group, GroupPlan, MadeBlock, Progress, Rollout
from models.sampler import SampledBlock, stream_blocks
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from tests.fakes.weight_source import SHAPE, FakeWeightSource, weights

FULL = (SHAPE.wan.num_layers - 1) * SHAPE.context_frames
SIGMAS = warped_sigmas(SHAPE.timesteps, SHAPE.shift)
BLOCK = (3, *SHAPE.frame_shape)
ALL = (0, 1, 2)
TENSORS = ("context", "latents", "noisy", "states", "samples", "behaviour")


def plan(
    start: int, transitions: tuple[int, ...] = ALL, shared: tuple[int, ...] = (0,), frames: int = 6, members: int = 3
) -> GroupPlan:
    return GroupPlan(GRPO, start, 3, 0, members, frames, transitions, shared, coarse=1.0, antithetic=False)


def rollout(number: int, *plans: GroupPlan) -> Rollout:
    numbered = tuple(replace(each, index=i) for i, each in enumerate(plans))
    return Rollout(number, 0, PROMPTS[5 * number], 40 + number, 36, numbered)


def stream(
    rollouts: Sequence[Rollout],
    source: FakeWeightSource | None = None,
    made: Sequence[MadeBlock] = (),
    burn_in: int = 3,
) -> list[Group | MadeBlock | Progress]:
    window = WindowConfig(burn_in_frames=burn_in)
    return list(
        GroupActor(SHAPE, window, encode_text, TinyCodec(), source or FakeWeightSource()).windows(rollouts, made)
    )


def groups_of(items: Sequence[Group | MadeBlock | Progress]) -> list[Group]:
    return [item for item in items if isinstance(item, Group)]


def student() -> Wan:
    network = Wan(SHAPE.wan).requires_grad_(False)
    network.load_state_dict(weights(0).tensors)
    return network


def blocks_of(asked: Rollout, blocks: int) -> list[SampledBlock]:
    """The first blocks of the video alone, by the sampler that makes videos."""
    noise, cache = BlockNoise([asked.seed], BLOCK), KVCache(SHAPE.wan, SHAPE.context_frames)
    return list(islice(stream_blocks(student(), encode_text([asked.prompt]), noise, SIGMAS, cache), blocks))


def noise_of(asked: Rollout, fork: GroupPlan, member: int, block: int, step: int) -> Tensor:
    """[F C H W]."""
    place = (asked.seed, block, step) if step in fork.shared else (asked.seed, block, step, fork.index, 1 + member)
    return torch.randn(BLOCK, generator=generator_for(*place))


def slow_member(asked: Rollout, fork: GroupPlan, member: int) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and predictions of every denoising step, [K C H W] each, on a cache of its own."""
    network, blocks = student(), fork.start // 3
    cache = blocks_of(asked, blocks)[-1].cache if blocks else KVCache(SHAPE.wan, SHAPE.context_frames)
    text = network.text_keys_values(encode_text([asked.prompt]))
    inputs, predictions = [], []
    for block in range(blocks, blocks + fork.frames // 3):
        x0 = None
        for step, sigma in enumerate(SIGMAS):
            noise = noise_of(asked, fork, member, block, step)[None]
            x_t = noise if x0 is None else (1 - sigma) * x0 + sigma * noise
            x0 = x_t - sigma * denoise_block(network, x_t, torch.full((1, 3), 1000 * sigma), text, cache)
            inputs.append(x_t[0])
            predictions.append(x0[0])
        cache = write_block(network, x0, text, cache)
    return tuple([torch.cat(steps[s::4]) for s in range(4)] for steps in (inputs, predictions))


FORKS = [
    plan(9),
    plan(0),
    plan(27, transitions=(1,), shared=(0, 1, 3)),
    plan(18, transitions=(2,), shared=(0, 1, 2), members=2),
    plan(9, transitions=(0,), shared=(), frames=9),
]
"""No past, one that fills the cache, one long past its first roll; two at one place."""


@pytest.fixture(scope="module")
def dispatch() -> list[Rollout]:
    """Three videos that fork at unlike places, one of them twice."""
    return [rollout(0, FORKS[0], FORKS[2]), rollout(1, FORKS[1], FORKS[3]), rollout(2, FORKS[4])]


@pytest.fixture(scope="module")
def items(dispatch) -> list[Group | MadeBlock | Progress]:
    return stream(dispatch)


def planned(dispatch: Sequence[Rollout], group: Group) -> tuple[Rollout, GroupPlan]:
    asked = dispatch[group.rollout]
    return asked, asked.windows[group.index]


def test_every_group_is_what_the_few_step_sampler_makes_of_each_member_alone(dispatch, items):
    made = groups_of(items)
    assert len(made) == 5
    for group in made:
        asked, fork = planned(dispatch, group)
        for member in range(fork.members):
            inputs, predictions = slow_member(asked, fork, member)
            expected = {
                "latents": predictions[3],
                "noisy": inputs[3],
                "states": torch.stack([inputs[t] for t in fork.transitions]),
                "samples": torch.stack([inputs[t + 1] for t in fork.transitions]),
                "behaviour": torch.stack([predictions[t] for t in fork.transitions]),
            }
            for name, tensor in expected.items():
                torch.testing.assert_close(getattr(group, name)[member], tensor, rtol=1e-4, atol=1e-4, msg=name)


def test_every_group_begins_where_its_video_stands_and_carries_context_and_burn_in(dispatch, items):
    blocks = [item for item in items if isinstance(item, MadeBlock)]
    for group in groups_of(items):
        asked, fork = planned(dispatch, group)
        assert (group.start, group.step, group.role) == (fork.start, 3, GRPO)
        assert (group.prompt, group.seed) == (asked.prompt, asked.seed)
        kept = min(fork.start, SHAPE.context_frames + 3)
        assert group.context.shape == (kept, *SHAPE.frame_shape)
        if fork.start:
            video = torch.cat([block.x0[group.rollout] for block in blocks[: fork.start // 3]])
            alone = torch.cat([block.x0[0] for block in blocks_of(asked, fork.start // 3)])
            assert torch.equal(group.context, video[-kept:])
            torch.testing.assert_close(video, alone, rtol=1e-4, atol=1e-4)


def test_groups_come_behind_the_block_that_they_fork_after_and_the_videos_stop_at_the_last_fork(items):
    order = [
        ("block", item.index) if isinstance(item, MadeBlock) else ("group", item.start)
        for item in items
        if not isinstance(item, Progress)
    ]
    expected = [("group", 0)]
    for index in range(9):
        expected += [("block", index)] + [("group", 3 * (index + 1))] * {2: 2, 5: 1, 8: 1}.get(index, 0)
    assert order == expected


def test_every_continued_block_is_a_sign_of_life(items):
    signs = [item for item in items if isinstance(item, Progress)]
    assert len(signs) == sum(fork.frames // 3 for fork in FORKS)
    assert {sign.what for sign in signs} == {"continued block"}


def test_a_sample_is_its_behaviour_and_its_noise_at_the_next_level_exactly_as_drawn(dispatch, items):
    for group in groups_of(items):
        asked, fork = planned(dispatch, group)
        for member in range(fork.members):
            for t, step in enumerate(fork.transitions):
                for k in range(fork.frames // 3):
                    frames = slice(3 * k, 3 * k + 3)
                    noise = noise_of(asked, fork, member, group.start // 3 + k, step + 1)
                    level = torch.full((1, 3), SIGMAS[step + 1])
                    drawn = add_noise(group.behaviour[member, t, frames][None], noise[None], level)[0]
                    assert torch.equal(group.samples[member, t, frames], drawn)


def test_what_one_transition_reaches_the_next_leaves_and_the_last_step_starts_from_the_last_sample(items):
    for group in groups_of(items):
        if group.transitions == ALL:
            assert torch.equal(group.states[:, 1:], group.samples[:, :-1])
            assert torch.equal(group.samples[:, -1], group.noisy)


def test_members_of_a_group_share_the_noise_that_the_plan_says_and_no_other(items):
    by_place = {(group.rollout, group.index): group for group in groups_of(items)}
    first = by_place[0, 0].states[:, 0]
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2]), (
        "the first noise of each block is shared"
    )
    fresh = by_place[2, 0].states[:, 0]
    assert not torch.isclose(fresh[0], fresh[1]).any()


def test_a_group_is_the_same_whatever_else_its_actor_makes(dispatch, items):
    for group in groups_of(items):
        asked, fork = planned(dispatch, group)
        (alone,) = groups_of(stream([replace(asked, windows=(fork,))]))
        for name in TENSORS:
            torch.testing.assert_close(getattr(alone, name), getattr(group, name), rtol=1e-4, atol=1e-4, msg=name)


def test_groups_are_bit_equal_when_made_again(dispatch, items):
    for one, other in zip(groups_of(stream(dispatch)), groups_of(items), strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


@pytest.mark.parametrize("lost_after", [1, 3, 6, 8, 9])
def test_a_group_of_a_video_that_another_actor_goes_on_with_is_the_same_group(lost_after):
    """Exact when the blocks that are kept reach back as far as the layers can see."""
    asked = rollout(0, plan(27))
    whole = stream([asked], burn_in=FULL)
    before = [item for item in whole if isinstance(item, MadeBlock)][:lost_after]
    after = stream([asked], made=before, burn_in=FULL)
    assert [item.index for item in after if isinstance(item, MadeBlock)] == list(range(lost_after, 9))
    (one,), (other,) = groups_of(whole), groups_of(after)
    for name in TENSORS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5, msg=name)


def test_newer_weights_are_taken_up_at_the_next_block_of_past_or_group_and_every_block_says_which_made_it():
    items = stream([rollout(0, plan(3), plan(9))], FakeWeightSource(blocks_per_version=1))
    early, late = groups_of(items)
    assert early.versions == (0, 0, 1)
    # Asked again behind both blocks of the first group and behind the block that it followed.
    assert late.versions == (0, 3, 4, 4, 5)
    assert [item.version for item in items if isinstance(item, MadeBlock)] == [0, 3, 4]
    assert (early.version, late.version) == (0, 0)


def test_a_sentinels_look_is_one_video_from_its_beginning_without_transitions():
    look = GroupPlan(SENTINEL, 0, 3, 0, members=1, frames=12, transitions=(), shared=(), coarse=1.0, antithetic=False)
    items = stream([rollout(0, look)])
    (group,) = groups_of(items)
    assert not any(isinstance(item, MadeBlock) for item in items)
    assert group.role == SENTINEL and group.latents.shape == (1, 12, *SHAPE.frame_shape)
    assert group.context.shape == (0, *SHAPE.frame_shape)
    for name in ("states", "samples", "behaviour"):
        assert getattr(group, name).shape == (1, 0, 12, *SHAPE.frame_shape)
    torch.testing.assert_close(group.latents[0], slow_member(rollout(0, look), look, 0)[1][3], rtol=1e-4, atol=1e-4)


def test_groups_carry_no_graph(items):
    assert not any(getattr(group, name).requires_grad for group in groups_of(items) for name in TENSORS)
