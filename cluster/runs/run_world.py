"""The world that a run trains in: opened by each of its processes, checked before any of them starts."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.errors import ConfigError
from models.network_config import StudentConfig, WanConfig
from models.worlds import tiny_world
from models.worlds.video_codec import VideoCodec
from models.worlds.world import Text, open_codec, open_text
from rewards.reward_config import SHIPPED


@dataclass(frozen=True)
class RunWorld:
    """Open the text encoder and the codec of a run."""

    wan: WanConfig
    text_encoder: Path | None
    """Folder of the text encoder; None in the tiny world."""
    vae: Path | None
    text_cache: Path
    text_dtype: torch.dtype
    negative_prompt: str

    def text(self, device: torch.device) -> Text:
        """Open the text encoder, which takes memory on `device` only while it encodes a prompt not yet cached.

        It does not warn of a negative prompt that is cut: `check_world` does, once for all processes. Raises ValueError
        where its folder is missing or does not fit.
        """
        warned = [self.negative_prompt]
        return open_text(self.wan, self.text_encoder, self.text_cache, device, self.text_dtype, warned_prompts=warned)

    def codec(self, device: torch.device) -> VideoCodec:
        """Open the codec on `device`. Raises ValueError where its folder is missing or does not fit."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        return open_codec(self.wan, self.vae, device, dtype)


def check_tiny_world(student: StudentConfig) -> None:
    """Reject a student whose videos the tiny world cannot show. Raises ConfigError."""
    for key, value, fixed in (
        ("student.height", student.height, tiny_world.SIZE),
        ("student.width", student.width, tiny_world.SIZE),
        ("student.horizon_frames", student.horizon_frames, tiny_world.HORIZON),
    ):
        if value != fixed:
            raise ConfigError(key, value, f"the tiny world has {fixed}", f"write {key}={fixed}")


def check_wan_world(
    stages: Collection[str], student: StudentConfig, prompts: str | None, window_frames: int, world: RunWorld
) -> None:
    """Reject stages that cannot train in a world of real videos, and open what they open. Raises ValueError."""
    if "teacher" in stages:
        raise ConfigError(
            "stage", list(stages), "stage teacher learns the tiny world's videos only",
            "leave stage teacher out, and write teacher=WEIGHTS",
        )  # fmt: skip
    if prompts is None:
        raise ConfigError("prompts", None, f"student.model={student.model} trains on a file", "write prompts=FILE")
    windows = not {"dmd", "grpo"}.isdisjoint(stages)
    if windows and window_frames == student.block_frames:
        raise ConfigError(
            "window.frames", window_frames, "a window of one block has no loss in the middle of a video",
            f"write window.frames={2 * window_frames} or more",
        )  # fmt: skip
    cpu = torch.device("cpu")
    if surplus := world.text(cpu).truncated_tokens(world.negative_prompt):
        read = student.wan.text_len
        print(f"note: prompt.negative has {read + surplus} tokens; the first {read} are read", file=sys.stderr)
    if windows:
        world.codec(cpu)


def check_judges(model: str, terms: Sequence[str], metrics: Sequence[str]) -> None:
    """Reject rewards and sentinels that judge the tiny world only. Raises ConfigError."""
    for key, names in (("reward.terms", terms), ("sentinel.metrics", metrics)):
        if tiny := [name for name in names if SHIPPED.get(name, name).startswith("rewards.tiny.")]:
            raise ConfigError(
                key, None, f"{', '.join(tiny)} judges the tiny world only, not student.model={model}",
                f"take it out of {key}",
            )  # fmt: skip
