"""Windows from the middle of a video of Wan's kind carry what the teacher is shown in place of their first frame."""

import pytest
import torch

from actors.group_actor import GroupActor
from actors.rollout_actor import RolloutActor
from actors.rollout_config import WindowConfig
from models.network_config import CONFIGS, StudentConfig
from models.records import GRPO, STUDENT, Group, GroupPlan, MadeBlock, Rollout, Weights, Window, WindowPlan
from models.wan.vae import WanCodec
from models.worlds.video_codec import TinyCodec, window_image_latents
from tests.fakes.fixed_weights import FixedWeights
from tests.fakes.small_world import CONFIG, NAME, PROMPTS, small_network, small_vae

WINDOW = WindowConfig(frames=6, burn_in_frames=3)
CODEC = WanCodec(small_vae())


def weights() -> FixedWeights:
    return FixedWeights(Weights.of(0, small_network(0)))


def encode_text(prompts):
    drawn = [torch.Generator().manual_seed(PROMPTS.index(prompt)) for prompt in prompts]
    return torch.stack([torch.randn(CONFIG.text_len, CONFIG.text_dim, generator=one) for one in drawn])


@pytest.fixture
def shape(monkeypatch) -> StudentConfig:
    monkeypatch.setitem(CONFIGS, NAME, CONFIG)
    return StudentConfig(model=NAME, height=4, width=6, horizon_frames=6, attention_frames=6)


def rollouts() -> list[Rollout]:
    """Two videos: windows at the beginning, behind all that is remembered, and behind more."""
    plans = tuple(WindowPlan(STUDENT, start, 3, index) for index, start in enumerate((0, 6, 12)))
    return [Rollout(i, 0, PROMPTS[i], i, 18, plans) for i in range(2)]


def expected(sample: Window | Group, first: torch.Tensor) -> torch.Tensor:
    """From what the sample itself carries."""
    return window_image_latents(CODEC, sample.context, first)


def test_every_window_but_those_at_the_beginning_has_the_image_of_its_first_frame(shape):
    made = list(RolloutActor(shape, WINDOW, encode_text, CODEC, weights()).windows(rollouts()))
    windows = [item for item in made if isinstance(item, Window)]
    assert len(windows) == 6
    for window in windows:
        if window.start:
            torch.testing.assert_close(window.image[None], expected(window, window.latents[:1]))
        else:
            assert window.image is None


def test_a_video_that_another_actor_goes_on_with_gives_the_same_images(shape):
    asked = rollouts()
    whole = list(RolloutActor(shape, WINDOW, encode_text, CODEC, weights()).windows(asked))
    blocks = [item for item in whole if isinstance(item, MadeBlock)]
    after = RolloutActor(shape, WINDOW, encode_text, CODEC, weights()).windows(asked, blocks[:4])
    images = {(item.rollout, item.index): item.image for item in whole if isinstance(item, Window)}
    continued = [item for item in after if isinstance(item, Window)]
    assert len(continued) == 2
    for window in continued:
        torch.testing.assert_close(window.image, images[window.rollout, window.index], rtol=1e-3, atol=1e-4)


def test_in_the_tiny_world_no_window_has_one(shape):
    made = RolloutActor(shape, WINDOW, encode_text, TinyCodec(), weights()).windows(rollouts())
    assert all(item.image is None for item in made if isinstance(item, Window))


def test_each_member_of_a_group_has_the_image_of_its_own_first_frame(shape):
    plans = tuple(GroupPlan(GRPO, start, 3, i, 2, 6, (1,), (0,), 1.0, False) for i, start in enumerate((0, 9)))
    asked = [Rollout(0, 0, PROMPTS[0], 1, 15, plans)]
    made = list(GroupActor(shape, WINDOW, encode_text, CODEC, weights()).windows(asked))
    groups = [item for item in made if isinstance(item, Group)]
    assert [one.start for one in groups] == [0, 9]
    for one in groups:
        if one.start:
            torch.testing.assert_close(one.images, expected(one, one.latents[:, 0]))
        else:
            assert one.images is None
