import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.errors import ConfigError
from models.worlds.tiny_prompts import COLOURS, PROMPTS, SCENES, SPEEDS, scene_of
from models.worlds.tiny_world import (
    GRADIENT,
    LEVEL,
    RADIUS,
    SIZE,
    encode_text,
    render,
    sample_video,
    to_latents,
    to_pixels,
)

prompts = st.sampled_from(PROMPTS)
seeds = st.integers(0, 2**32 - 1)


def video(prompt: str, frames: int, seed: int) -> Tensor:
    return sample_video(prompt, frames, torch.Generator().manual_seed(seed))


def sprite_alone(shape: str, speed: str, frames: int, seed: int) -> Tensor:
    """Coverage [F H W] of a sampled sprite: walls cancel between two videos that differ in colour alone."""
    red, blue = (video(f"a {colour} {shape} {speed} over a warm wall", frames, seed) for colour in ("red", "blue"))
    contrast = torch.tensor(COLOURS["red"]) - torch.tensor(COLOURS["blue"])
    return ((red - blue) / contrast[:, None, None]).mean(1)


def path(speed: str, frames: int, seed: int) -> Tensor:
    """Exact centre [F 2] of a sampled square: to each side of a cut it reaches as far as coverage adds up."""
    cover = sprite_alone("square", speed, frames, seed)
    centre = []
    for profile in (
        cover.amax(2),
        cover.amax(1),
    ):  # share of every row, then of every column, that is reached
        cut = (profile * (torch.arange(SIZE) + 0.5)).sum(1, keepdim=True).div(profile.sum(1, keepdim=True)).round()
        beyond = torch.arange(SIZE) >= cut
        centre.append(cut[:, 0] + ((profile * beyond).sum(1) - (profile * ~beyond).sum(1)) / 2)
    return torch.stack(centre, 1)


@given(prompt=prompts, seed=seeds, other=seeds)
@settings(max_examples=30, deadline=None)
def test_a_video_is_a_function_of_its_prompt_and_generator_alone(prompt, seed, other):
    torch.manual_seed(other)
    before = torch.get_rng_state()
    once = video(prompt, 5, seed)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(other + 1)
    assert torch.equal(video(prompt, 5, seed), once)


def test_a_generator_never_gives_the_same_video_twice():
    generator = torch.Generator().manual_seed(0)
    first, second = (sample_video(PROMPTS[0], 3, generator) for _ in range(2))
    assert not torch.allclose(first, second, atol=0.01)


@given(prompt=prompts, seed=seeds, frames=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_a_short_video_is_the_beginning_of_the_long_one(prompt, seed, frames):
    torch.testing.assert_close(video(prompt, frames, seed), video(prompt, 40, seed)[:frames])


def test_videos_of_one_prompt_differ_in_luminance_and_their_text_does_not_say_so():
    brightness = torch.stack([video(PROMPTS[7], 1, seed).mean() for seed in range(64)])
    assert brightness.std() > 0.05
    assert torch.equal(*encode_text([PROMPTS[7], PROMPTS[7]]))


def test_every_prompt_has_its_own_text_and_none_has_none():
    text = encode_text(PROMPTS).flatten(1)
    assert len(text.unique(dim=0)) == len(PROMPTS) == 72
    assert encode_text([""]).count_nonzero() == 0


def test_a_prompt_reads_back_as_its_scene():
    for prompt, scene in SCENES.items():
        assert scene_of(prompt) == scene
        assert prompt == f"a {scene.colour} {scene.shape} {scene.speed} over a {scene.wall} wall"


@pytest.mark.parametrize("refuse", [scene_of, lambda prompt: encode_text([PROMPTS[0], prompt])])
def test_a_prompt_outside_the_world_is_refused_by_name(refuse):
    prompt = "a red dog over a warm wall"
    with pytest.raises(ConfigError) as error:
        refuse(prompt)
    assert (error.value.key, error.value.value) == ("prompt", prompt)


@given(seed=seeds, speed=st.sampled_from(list(SPEEDS)), shape=st.sampled_from(["disc", "square"]))
@settings(max_examples=40, deadline=None)
def test_a_bouncing_sprite_stays_whole_and_inside(seed, speed, shape):
    area = sprite_alone(shape, speed, 150, seed).sum((1, 2))
    whole = torch.full_like(area, torch.pi * RADIUS**2)
    torch.testing.assert_close(area, whole, rtol=0.06, atol=0)  # anti-aliasing varies a disc by 5%
    centre = path(speed, 150, seed)
    assert centre.min() >= RADIUS - 1e-3 and centre.max() <= SIZE - RADIUS + 1e-3


@given(seed=seeds, speed=st.sampled_from(list(SPEEDS)))
@settings(max_examples=40, deadline=None)
def test_away_from_the_edges_a_sprite_moves_at_exactly_its_speed(seed, speed):
    centre = path(speed, 200, seed)
    margin = RADIUS + SPEEDS[speed]
    inside = ((centre > margin) & (centre < SIZE - margin)).all(1)
    moved = centre.diff(dim=0).norm(dim=1)[inside[:-1] & inside[1:]]
    assume(len(moved) > 20)  # one that runs along an edge never is away from it
    torch.testing.assert_close(moved, torch.full_like(moved, SPEEDS[speed]), rtol=0, atol=1e-3)


@given(seed=seeds, speed=st.sampled_from(list(SPEEDS)))
@settings(max_examples=20, deadline=None)
def test_a_bounce_turns_one_direction_and_keeps_the_pace_of_both(seed, speed):
    centre = path(speed, 200, seed)
    margin = RADIUS + SPEEDS[speed]
    inside = (centre > margin) & (centre < SIZE - margin)
    for axis in range(2):
        pace = centre[:, axis].diff().abs()[inside[:-1, axis] & inside[1:, axis]]
        assert pace.max() - pace.min() < 1e-3


@pytest.mark.parametrize("level", LEVEL)
@pytest.mark.parametrize("down", [-GRADIENT / 2, GRADIENT / 2])
@pytest.mark.parametrize("right", [-GRADIENT / 2, GRADIENT / 2])
def test_no_light_a_video_can_have_is_cut_off_by_the_pixel_range(level, down, right):
    light, middle = torch.tensor([level, down, right]), torch.tensor([6.0, 6.0])
    for scene in SCENES.values():
        frame, dimmed = render(scene, middle, light), render(scene, middle, 0.9 * light)
        unlit = render(scene, middle, 0 * light)
        torch.testing.assert_close(dimmed, 0.9 * frame + 0.1 * unlit, rtol=0, atol=1e-6)  # linear: nothing clipped


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_decoding_undoes_encoding(seed):
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(to_pixels(to_latents(pixels)), pixels)
    torch.testing.assert_close(to_latents(to_pixels(to_latents(pixels))), to_latents(pixels))


def test_decoding_never_leaves_the_pixel_range():
    pixels = to_pixels(torch.linspace(-50, 50, 101))
    assert pixels.min() == 0 and pixels.max() == 1
