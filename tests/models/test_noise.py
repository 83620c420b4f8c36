import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.frequencies import low_frequency_dct, low_pass
from models.noise import BlockNoise, MemberNoise, generator_for

SHAPE = (2, 3, 4, 4)
few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**62)
places = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


@few
@given(batch=st.lists(seeds, min_size=1, max_size=4), block=st.integers(0, 5000), step=st.integers(0, 3))
def test_noise_of_a_video_does_not_depend_on_the_batch_it_is_made_in(batch, block, step):
    together = BlockNoise(batch, SHAPE).draw(block, step)
    for noise, seed in zip(together, batch, strict=True):
        assert torch.equal(noise[None], BlockNoise([seed], SHAPE).draw(block, step))


def test_noise_can_be_drawn_in_any_order_and_again():
    noise = BlockNoise([5], SHAPE)
    forwards = [noise.draw(block, step) for block in range(3) for step in range(4)]
    torch.randn(7)  # the global generator is nobody's business
    backwards = [noise.draw(block, step) for block in (2, 1, 0) for step in (3, 2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    BlockNoise([5], SHAPE).draw(1, 2)
    assert torch.equal(torch.get_rng_state(), before)


@few
@given(one=places, other=places)
def test_different_places_have_different_noise(one, other):
    drawn = [torch.randn(4, generator=generator_for(*place)) for place in (one, other)]
    assert torch.equal(*drawn) == (one == other)


def test_noise_of_different_seeds_blocks_and_steps_is_standard_normal_and_uncorrelated():
    noise = torch.stack(
        [BlockNoise([seed], (4, 4, 16, 16)).draw(b, s).flatten() for seed in (0, 1) for b in (0, 1) for s in (0, 1)]
    )
    standard_errors = torch.corrcoef(noise).sub(torch.eye(8)).abs() * noise.shape[1] ** 0.5
    assert standard_errors.max() < 5
    assert (noise.mean(1).abs() < 5 / noise.shape[1] ** 0.5).all()
    assert (noise.var(1) - 1).abs().max() < 5 * (2 / noise.shape[1]) ** 0.5


@few
@given(seed=seeds, members=st.integers(1, 5), block=st.integers(0, 5000), step=st.integers(0, 3))
def test_where_noise_is_shared_every_member_has_what_the_video_itself_would_have_had(seed, members, block, step):
    drawn = MemberNoise(seed, 0, members, (0, 1, 2, 3), 1.0, False, SHAPE).draw(block, step)
    assert torch.equal(drawn, BlockNoise([seed] * members, SHAPE).draw(block, step))


@few
@given(seed=seeds, block=st.integers(0, 5000), step=st.integers(0, 3))
def test_where_it_is_not_each_member_has_its_own_whatever_their_number_and_none_has_the_videos(seed, block, step):
    shared = [other for other in range(4) if other != step]
    few_of_them, all_of_them = (
        MemberNoise(seed, 0, members, shared, 1.0, False, SHAPE).draw(block, step) for members in (2, 5)
    )
    assert torch.equal(few_of_them, all_of_them[:2])
    assert len({noise.sum().item() for noise in [*all_of_them, BlockNoise([seed], SHAPE).draw(block, step)[0]]}) == 6


def test_noise_of_members_blocks_and_steps_is_standard_normal_and_uncorrelated():
    noise = MemberNoise(3, 0, 3, (), 1.0, False, (4, 4, 16, 16))
    drawn = torch.cat([noise.draw(block, step).flatten(1) for block in (0, 1) for step in (0, 1)])
    standard_errors = torch.corrcoef(drawn).sub(torch.eye(12)).abs() * drawn.shape[1] ** 0.5
    assert standard_errors.max() < 5
    assert (drawn.mean(1).abs() < 5 / drawn.shape[1] ** 0.5).all()
    assert (drawn.var(1) - 1).abs().max() < 5 * (2 / drawn.shape[1]) ** 0.5


def test_antithetic_members_have_opposite_noise_where_it_is_their_own():
    drawn = MemberNoise(7, 0, 5, (0,), 1.0, True, SHAPE)
    own, shared = drawn.draw(2, 1), drawn.draw(2, 0)
    assert torch.equal(own[0], -own[1]) and torch.equal(own[2], -own[3])
    assert not torch.equal(own[0], own[2]) and not torch.equal(own[4], own[2])
    assert all(torch.equal(member, shared[0]) for member in shared)


def test_two_groups_of_one_video_have_noise_of_their_own():
    one, other = (MemberNoise(7, fork, 2, (0,), 1.0, False, SHAPE) for fork in (0, 1))
    assert torch.equal(one.draw(2, 0), other.draw(2, 0)), "what is shared is the video's"
    assert not any(torch.equal(a, b) for a in one.draw(2, 1) for b in other.draw(2, 1))


def test_members_differ_in_coarse_noise_alone_and_each_has_noise_that_is_standard_normal():
    shape, share = (4, 4, 16, 16), 0.25
    drawn = MemberNoise(3, 0, 6, (), share, False, shape).draw(1, 2)
    video = BlockNoise([3], shape).draw(1, 2)
    fine = drawn - low_pass(drawn, share)
    assert torch.allclose(fine, (video - low_pass(video, share)).expand_as(fine), atol=1e-5)
    own = low_frequency_dct(drawn, share).flatten(1)
    standard_errors = torch.corrcoef(own).sub(torch.eye(6)).abs() * own.shape[1] ** 0.5
    assert standard_errors.max() < 5
    flat = drawn.flatten(1)
    assert (flat.mean(1).abs() < 5 / flat.shape[1] ** 0.5).all()
    assert (flat.var(1) - 1).abs().max() < 5 * (2 / flat.shape[1]) ** 0.5


def test_antithetic_members_have_opposite_coarse_noise_and_the_same_fine_noise():
    drawn = MemberNoise(7, 0, 4, (0,), 0.5, True, SHAPE).draw(2, 1)
    part = low_pass(drawn, 0.5)
    assert torch.allclose(part[0], -part[1], atol=1e-6) and torch.allclose(part[2], -part[3], atol=1e-6)
    assert torch.allclose((drawn - part)[0], (drawn - part)[3], atol=1e-6)
