"""Run actors, the text encoder and the check of the driver on the null GPU."""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from actors.group_actor import GroupActor
from actors.rollout_actor import RolloutActor
from actors.student_actor import StudentActor
from models.records import CRITIC, GRPO, STUDENT, GroupPlan, MadeBlock, Rollout, Weights, WindowPlan
from models.text.embedding_cache import CachedText
from models.text.umt5 import Umt5
from models.wan.device_faults import driver_fault
from models.wan.network import ComputeSpec, Wan
from tests.device.scenario import DEVICE, Scenario
from tests.models.small_text import TEXT_DIM, save_text_encoder


@dataclass
class TwoVersions:
    """Gives one version of weights on the GPU, and holds the next, as fetched ahead."""

    tensors: dict[str, Tensor]
    standing_by: dict[str, Tensor]

    def newer(self, than: int | None) -> Weights | None:
        return Weights(0, self.tensors) if than is None else None


class WithoutPixels:
    """Codes latents to a few pixels: convolutions need cuDNN, and `test_fake_vae.py` runs those."""

    channels, time_stride, space_stride = 16, 4, 8

    def decode(self, latents: Tensor, past: int | None = None) -> tuple[Tensor, int]:
        return torch.zeros(len(latents), 4, 3, 8, 8, device=latents.device), 1

    def encode(self, video: Tensor) -> Tensor:
        return torch.zeros(len(video), 1, 16, 60, 104, device=video.device)


def actor_of(kind: type[StudentActor], scenario: Scenario, stage: str) -> StudentActor:
    """Make an actor with random weights on the GPU in bfloat16."""
    with torch.device("meta"):
        names = Wan(scenario.shape.wan).state_dict()
    first, second = (
        {name: torch.empty(t.shape, dtype=torch.bfloat16, device=DEVICE) for name, t in names.items()} for _ in range(2)
    )
    return kind(
        scenario.shape, scenario.config.window_of(stage), lambda prompts: torch.zeros(len(prompts), 512, 4096),
        WithoutPixels(), TwoVersions(first, second), ComputeSpec(DEVICE, torch.bfloat16, scenario.compiled is not None),
    )  # fmt: skip


def rollout(scenario: Scenario) -> None:
    """Make a video past the roll of its cache, and two windows of it."""
    with scenario.measured("build"):
        actor = actor_of(RolloutActor, scenario, "dmd")
    plans = (WindowPlan(CRITIC, 3, 3, 0), WindowPlan(STUDENT, scenario.starts[0], 3, 1))
    with scenario.measured("rollout"):
        items = list(actor.windows([Rollout(0, 0, "a", 7, 402, plans)]))
    made = [item for item in items if isinstance(item, MadeBlock)]
    assert len(made) * scenario.shape.block_frames == scenario.starts[0] + scenario.config.window.frames


def fork(scenario: Scenario) -> None:
    """Make a group behind a full cache."""
    with scenario.measured("build"):
        actor = actor_of(GroupActor, scenario, "grpo")
    group = scenario.config.group
    plan = GroupPlan(GRPO, scenario.starts[0], 3, 0, group.members, group.frames, (1,), (0,), group.coarse,
                     group.antithetic)  # fmt: skip
    with scenario.measured("group"):
        made = list(actor.windows([Rollout(0, 0, "a", 7, 402, (plan,))]))[-1]
    assert made.latents.shape[:2] == (group.members, group.frames)


def text(scenario: Scenario) -> None:
    """Encode prompts by a small UMT5 in bfloat16, and give its memory back."""
    with TemporaryDirectory() as name:
        folder = save_text_encoder(Path(name))
        encoder = Umt5(folder, TEXT_DIM, 12, DEVICE, torch.bfloat16)
        with scenario.measured("encode"):
            rows = CachedText(encoder, folder / "cache", 12)(["a cat", "a dog walks"])
    assert rows.shape == (2, 12, TEXT_DIM) and rows.device.type == "cpu"


def old_driver(scenario: Scenario) -> None:
    """Tell a driver that this torch cannot use from one that it can."""
    assert driver_fault() is None
    version = ctypes.c_int.in_dll(ctypes.CDLL("libcuda.so.1"), "nulldriver_version")
    version.value, usual = 12040, version.value
    try:
        assert "12.4" in driver_fault()
    finally:
        version.value = usual
