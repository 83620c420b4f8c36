"""Check weights and stages before a run starts. Each check takes the parts that it compares."""

import sys
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from cluster.runs.run_folder import RunFolder
from cluster.runs.run_world import RunWorld
from learner.stage_config import Source
from models.checkpoints.weight_files import check_weights, verify_weights
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.wan.tiny_decoder import TinyDecoderCodec
from models.worlds import tiny_world
from rewards.reward_config import SHIPPED


def check_source(source: Source, network: nn.Module) -> None:
    """Compare weights with the shapes of `network` (on "meta"), and with their own checksum. Raises ValueError."""
    check_weights(source.path, source.key, network, source.part)
    verify_weights(source.path, source.key)


def check_stage_folders(
    folder: RunFolder, stages: Collection[str], init: str | None, student: nn.Module, teacher: nn.Module
) -> None:
    """Verify results and checkpoints in a run folder, and that `stages` may begin in it. Raises ValueError."""
    for path in sorted(folder.path.glob("*/")):
        stage = folder.stage(path.name)
        stage.verify()
        if stage.finished:
            check_weights(stage.result, "run_dir", teacher if path.name == "teacher" else student)
    if "dmd" in stages and "ode" not in stages and init is None and not folder.stage("ode").finished:
        raise ConfigError(
            "stage", list(stages), "dmd starts from a student", "run stage ode first, or write init=WEIGHTS"
        )
    students = [name for name in ("ode", "dmd", "grpo") if (folder.path / name).exists()]
    if "teacher" in stages and students and not folder.stage("teacher").finished:
        raise ConfigError(
            "run_dir", folder.path, f"its {' and '.join(students)} had another teacher",
            "leave stage teacher out, or write a new run_dir",
        )  # fmt: skip


def check_world(
    stages: Collection[str], student: StudentConfig, prompts: str | None, window_frames: int,
    judges: Mapping[str, Sequence[str]], world: RunWorld,
) -> None:  # fmt: skip
    """Reject stages that cannot train in the world of `student`, and open what they open. Raises ValueError.

    `judges`: names of rewards and sentinels, by key.
    """
    if not student.in_wan_world:
        for name, fixed in (
            ("height", tiny_world.SIZE), ("width", tiny_world.SIZE), ("horizon_frames", tiny_world.HORIZON)
        ):  # fmt: skip
            if (value := getattr(student, name)) != fixed:
                key = f"student.{name}"
                raise ConfigError(key, value, f"the tiny world has {fixed}", f"write {key}={fixed}")
        return
    for key, names in judges.items():
        if tiny := [name for name in names if SHIPPED.get(name, name).startswith("rewards.tiny.")]:
            raise ConfigError(
                key, None, f"{', '.join(tiny)} judges the tiny world only, not student.model={student.model}",
                f"take it out of {key}",
            )  # fmt: skip
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
    if windows and isinstance(world.codec(cpu), TinyDecoderCodec):
        raise ConfigError(
            "vae", world.vae, "a tiny decoder encodes no images, which windows from the middle of a video begin with",
            "write vae=the VAE itself; reward.vae takes the tiny decoder",
        )  # fmt: skip


def check_start_of_grpo(init: Source, critic: Source | None, base: Source, student: nn.Module) -> None:
    """Check the networks that stage grpo starts from, and note a critic that never saw this student.

    `critic` is None where the stage has no extended DMD loss. Raises ValueError.
    """
    check_source(init, student)
    if critic is not None:
        check_source(critic, student)
    if critic == base:
        print(
            f"note: no critic lies beside {init.path}; that of stage grpo starts from {base.path} and does not know "
            "the student yet (grpo.critic names one)",
            file=sys.stderr,
        )
