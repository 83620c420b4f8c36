"""In a world where first frames are images, a window from the middle of a video must bring one."""

from dataclasses import replace

import pytest
import torch

from actors.rollout_config import WindowConfig
from cluster.supply.ledger import VersionHistory
from cluster.supply.wire import BadWindow, seal, validate_sample
from models.network_config import CONFIGS, StudentConfig
from models.records import GRPO, STUDENT, Group, GroupPlan, Rollout, Window, WindowPlan
from tests.fakes.small_world import CONFIG, NAME

WINDOW = WindowConfig(frames=6, burn_in_frames=0)
PLANS = (
    WindowPlan(STUDENT, 0, 3, 0),
    WindowPlan(STUDENT, 3, 3, 1),
    GroupPlan(GRPO, 3, 3, 2, 2, 6, (), (), 1.0, False),
)
ROLLOUT = Rollout(0, 0, "a cat", 1, 9, PLANS)


@pytest.fixture
def shape(monkeypatch) -> StudentConfig:
    monkeypatch.setitem(CONFIGS, NAME, CONFIG)
    return StudentConfig(model=NAME, height=4, width=6, horizon_frames=6, attention_frames=6)


def window(index: int, image: torch.Tensor | None) -> Window:
    context, latents, noisy = torch.randn(15, 4, 4, 6).split([3, 6, 6])
    start = PLANS[index].start
    return Window(0, 0, index, STUDENT, "a cat", 1, start, 3, (0,) * (2 + start // 3), context[:start], latents, noisy,
                  image=image)  # fmt: skip


def group(images: torch.Tensor | None) -> Group:
    members, nothing = torch.randn(2, 6, 4, 4, 6), torch.zeros(2, 0, 6, 4, 4, 6)
    return Group(0, 0, 2, GRPO, "a cat", 1, 3, 3, (), (0, 0, 0), torch.randn(3, 4, 4, 6), members, members, nothing,
                 nothing, nothing, images=images)  # fmt: skip


def look(sample: Window | Group, shape: StudentConfig) -> None:
    header, _ = seal(sample)
    validate_sample(header, ROLLOUT, shape, WINDOW, VersionHistory([(0, 0)]))


IMAGE = torch.randn(4, 4, 6)


def test_windows_with_an_image_in_the_middle_and_none_at_the_beginning_pass(shape):
    for sample in (window(0, None), window(1, IMAGE), group(torch.stack([IMAGE, IMAGE]))):
        look(sample, shape)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (window(0, IMAGE), "image"),
        (window(1, None), "image"),
        (window(1, IMAGE * torch.nan), "not_finite"),
        (group(None), "image"),
        (group(IMAGE[None]), "shape"),
        (group(torch.stack([IMAGE, IMAGE / 0])), "not_finite"),
    ],
)
def test_others_are_refused_by_name(shape, sample, reason):
    with pytest.raises(BadWindow) as refused:
        look(sample, shape)
    assert refused.value.reason == reason


def test_an_image_of_another_shape_belongs_to_no_window():
    with pytest.raises(ValueError, match=r"image \[4, 4\]"):
        replace(window(1, IMAGE), image=IMAGE[..., 0])
