import dataclasses
import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.worlds.tiny_judge import LIGHT_HIGH, LIGHT_LOW, TOLERANCE, Verdict, judge
from models.worlds.tiny_prompts import COLOURS, PROMPTS, SCENES, SHAPES, WALLS, TinyScene
from models.worlds.tiny_world import RADIUS, SIZE, render, sample_video

LOW, HIGH = RADIUS, SIZE - RADIUS
VALUES = {"colour": list(COLOURS), "shape": list(SHAPES), "wall": list(WALLS)}
SOME = slice(None, None, 5)  # 15 of the 72 prompts, with every colour, shape, speed and wall among them


def rendered(position: Tensor, light: Tensor) -> Tensor:
    """Frames [72 T 3 H W] of every prompt, for `position` [72 T 2] and `light` [72 T 3]."""
    scenes = zip(SCENES.values(), position, light, strict=True)
    return torch.stack([render(scene, where, lit) for scene, where, lit in scenes])


def scenes_at_random(per_prompt: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames [72 T 3 H W] of every prompt, with position [72 T 2] and light [72 T 3] from the whole range."""
    generator = torch.Generator().manual_seed(seed)
    position = LOW + (HIGH - LOW) * torch.rand(72, per_prompt, 2, generator=generator)
    light = LIGHT_LOW + (LIGHT_HIGH - LIGHT_LOW) * torch.rand(72, per_prompt, 3, generator=generator)
    return rendered(position, light), position, light


def prompts_changed(name: str, by: int = 1) -> list[str]:
    """Every prompt, with the property called `name` moved on by so many values."""
    values = VALUES[name]
    moved = {value: values[(i + by) % len(values)] for i, value in enumerate(values)}
    prompts = {scene: prompt for prompt, scene in SCENES.items()}
    return [prompts[dataclasses.replace(s, **{name: moved[getattr(s, name)]})] for s in SCENES.values()]


def prompted(name: str) -> Tensor:
    """Index [72 1] of the property called `name`, for every prompt."""
    return torch.tensor([[VALUES[name].index(getattr(scene, name))] for scene in SCENES.values()])


def design(scene: TinyScene, position: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What a rendering at `position` [2] adds up: a fixed sprite [N], and images [N 3] weighted by light."""
    light = torch.tensor([0.8, 0.0, 0.0]) + torch.cat([torch.zeros(1, 3), 0.1 * torch.eye(3)])
    frames = render(scene, position.expand(4, 2), light).double().flatten(1).numpy()
    images = (frames[1:] - frames[0]) / 0.1
    return frames[0] - 0.8 * images[0], images.T


def distance_in_box(images: np.ndarray, target: np.ndarray) -> float:
    """Least distance of `target` to `images` @ light in range: the best over all sets of active limits."""
    low, high = LIGHT_LOW.double().numpy(), LIGHT_HIGH.double().numpy()
    distances = []
    for choice in product(("low", "free", "high"), repeat=3):
        free = np.array([c == "free" for c in choice])
        light = np.where([c == "low" for c in choice], low, high)
        rest = target - images[:, ~free] @ light[~free]
        light[free] = np.linalg.lstsq(images[:, free], rest, rcond=None)[0]
        if (light >= low).all() and (light <= high).all():
            distances.append(np.linalg.norm(target - images @ light))
    return min(distances)


@pytest.fixture(scope="module")
def real() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([sample_video(prompt, 30, generator) for prompt in PROMPTS])


@pytest.fixture(scope="module")
def verdict(real: Tensor) -> Verdict:
    return judge(real, PROMPTS)


def test_real_videos_of_every_prompt_are_valid_in_every_frame_and_far_from_the_tolerance(verdict):
    assert verdict.valid.all()
    assert verdict.error.max() < TOLERANCE / 4


def test_a_real_frame_shows_the_colour_and_shape_of_its_prompt(verdict):
    assert verdict.colour_right.all() and verdict.shape_right.all()
    assert (verdict.colour == prompted("colour")).all() and (verdict.shape == prompted("shape")).all()


def test_the_light_of_real_videos_fills_the_range_and_does_not_leave_it():
    generator = torch.Generator().manual_seed(1)
    prompts = PROMPTS * 4
    light = judge(torch.stack([sample_video(p, 1, generator) for p in prompts]), prompts).light[:, 0]
    slack, span = 0.01, LIGHT_HIGH - LIGHT_LOW
    assert (light > LIGHT_LOW - slack).all() and (light < LIGHT_HIGH + slack).all()
    assert (light.amin(0) < LIGHT_LOW + 0.05 * span).all()
    assert (light.amax(0) > LIGHT_HIGH - 0.05 * span).all()


def test_position_and_light_of_every_prompt_are_recovered():
    frames, position, light = scenes_at_random(per_prompt=12, seed=2)
    seen = judge(frames, PROMPTS)
    assert (seen.position - position).norm(dim=-1).max() < 0.05
    assert (seen.light - light).abs().max() < 0.01


@given(
    prompt=st.sampled_from(PROMPTS),
    row=st.floats(LOW, HIGH),
    column=st.floats(LOW, HIGH),
    light=st.tuples(*map(st.floats, LIGHT_LOW.tolist(), LIGHT_HIGH.tolist())),
)
@settings(max_examples=60, deadline=None)
def test_any_rendering_at_any_place_in_any_light_is_valid_and_found(prompt, row, column, light):
    frame = render(SCENES[prompt], torch.tensor([row, column]), torch.tensor(light))
    seen = judge(frame[None, None], [prompt])
    assert seen.error.item() < 0.005
    assert (seen.position - torch.tensor([row, column])).abs().max() < 0.05
    assert seen.shape_right.all() and seen.colour_right.all()


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_equals_least_squares_at_its_position_and_no_position_does_better(seed):
    generator = torch.Generator().manual_seed(seed)
    prompt = PROMPTS[17 * seed]
    clean = sample_video(prompt, 1, generator)
    frame = (clean * 0.8 + 0.05 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    seen = judge(frame[None], [prompt])
    values = frame.double().flatten().numpy()

    sprite, images = design(SCENES[prompt], seen.position[0, 0])
    light, *_ = np.linalg.lstsq(images, values - sprite, rcond=None)
    np.testing.assert_allclose(seen.light[0, 0], light, atol=1e-4)
    in_range = distance_in_box(images, values - sprite) / len(values) ** 0.5
    assert seen.error.item() == pytest.approx(in_range, abs=1e-5)

    def squared_distance(position: Tensor) -> float:
        sprite, images = design(SCENES[prompt], position)
        return np.linalg.lstsq(images, values - sprite, rcond=None)[1].item()

    axis = torch.arange(LOW, HIGH + 0.1, 0.2)
    everywhere = min(squared_distance(position) for position in torch.cartesian_prod(axis, axis))
    assert squared_distance(seen.position[0, 0]) < 1.001 * everywhere


@pytest.mark.parametrize("by", range(1, len(COLOURS)))
def test_a_sprite_of_another_colour_is_not_valid_and_is_named(real, by):
    seen = judge(real[SOME, ::15], prompts_changed("colour", by)[SOME])
    assert not seen.valid.any()
    assert not seen.colour_right.any() and seen.shape_right.all()
    assert (seen.colour == prompted("colour")[SOME]).all()


def test_a_sprite_of_another_shape_is_named(real):
    seen = judge(real[:, ::15], prompts_changed("shape"))
    assert seen.colour_right.all() and not seen.shape_right.any()
    assert (seen.shape == prompted("shape")).all()


@pytest.mark.parametrize("by", [1, 2])
def test_another_wall_is_not_valid_and_its_sprite_is_still_seen(real, by):
    seen = judge(real[SOME, ::15], prompts_changed("wall", by)[SOME])
    assert not seen.valid.any() and seen.colour_right.all()


def noisy(frames: Tensor) -> Tensor:
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(3))
    return (frames + 0.08 * noise).clamp(0, 1)


SPOILERS = {
    "darkened to half": lambda x: 0.5 * x,
    "brightened to white": lambda x: x * 0.3 + 0.7,
    "faded to grey": lambda x: 0.4 * x + 0.6 * x.mean((2, 3, 4), keepdim=True),
    "noisy": noisy,
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "with brightness reversed": lambda x: 1 - x,
    "with channels swapped": lambda x: x[:, :, [2, 0, 1]],
    "with a column of NaN": lambda x: torch.where(torch.arange(SIZE) == 5, torch.nan, x),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_spoiled_frame_is_not_valid(real, spoil):
    assert not judge(spoil(real[SOME, ::8]), PROMPTS[SOME]).valid.any()


def test_a_wall_without_a_sprite_is_not_valid():
    _, position, light = scenes_at_random(per_prompt=4, seed=4)
    assert not judge(rendered(position + 100, light), PROMPTS).valid.any()


def test_two_sprites_are_not_valid():
    frames, position, light = scenes_at_random(per_prompt=4, seed=5)
    elsewhere = torch.where(position < SIZE / 2, position + 4, position - 4)
    second = rendered(elsewhere, light) - rendered(position + 100, light)
    assert not judge((frames + second).clamp(0, 1), PROMPTS).valid.any()


@pytest.mark.parametrize("level", [0.3, 1.4])
def test_a_wall_outside_the_range_of_light_is_not_valid_and_still_measured(level):
    _, position, light = scenes_at_random(per_prompt=3, seed=6)
    light[..., 0] = level
    seen = judge(rendered(position, light), PROMPTS)
    assert not seen.valid.any() and not seen.level_in_range.any()
    assert (seen.light[..., 0] - level).abs().max() < 0.01
    assert (seen.position - position).norm(dim=-1).max() < 0.05


def test_one_bad_frame_leaves_the_verdict_on_its_neighbours_alone(real, verdict):
    others = torch.arange(30) != 4
    seen = judge(real[:3].index_fill(1, torch.tensor([4]), torch.nan), PROMPTS[:3])
    assert torch.equal(seen.valid, others.expand(3, 30))
    torch.testing.assert_close(seen.error[:, others], verdict.error[:3, others], rtol=0, atol=1e-4)


def test_a_long_video_is_judged_as_its_parts_are():
    video = sample_video(PROMPTS[0], 150, torch.Generator().manual_seed(7))[None]
    parts = torch.cat([judge(part, PROMPTS[:1]).error for part in video.split(37, dim=1)], dim=1)
    torch.testing.assert_close(judge(video, PROMPTS[:1]).error, parts, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("video", "prompts", "got"),
    [
        (torch.zeros(2, 3, SIZE, SIZE), PROMPTS[:2], "[2, 3, 12, 12]"),
        (torch.zeros(1, 2, 3, SIZE, 8), PROMPTS[:1], "[1, 2, 3, 12, 8]"),
        (torch.zeros(1, 2, 1, SIZE, SIZE), PROMPTS[:1], "[1, 2, 1, 12, 12]"),
        (torch.zeros(1, 0, 3, SIZE, SIZE), PROMPTS[:1], "[1, 0, 3, 12, 12]"),
        (torch.zeros(1, 2, 3, SIZE, SIZE, dtype=torch.uint8), PROMPTS[:1], "torch.uint8"),
        (torch.zeros(2, 4, 3, SIZE, SIZE), PROMPTS[:3], " 3 for 2 "),
        (torch.zeros(1, 4, 3, SIZE, SIZE), ["a dog"], "a dog"),
    ],
)
def test_what_the_judge_cannot_read_is_refused_with_what_it_got(video, prompts, got):
    with pytest.raises(ValueError, match=re.escape(got)):
        judge(video, prompts)
