"""Measure the policy ratio between the learner's replay and the actor's record, by burn-in.

python -m benchmarks.ratio_error [student.safetensors] [key=value ...]   one JSON line for each loss that has a ratio:
the largest |ratio - 1| over all transitions and blocks of four groups, same weights, float32, before any update. Groups
and clip are those of the configuration (preset=tiny). The limit is half of grpo.clip: with more, training refuses the
burn-in.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import settings
from actors.group_actor import GroupActor
from actors.rollout_config import WindowConfig
from benchmarks.line import print_line
from cluster.config.run_config import Config
from learner.policy_batches import PolicyBatches
from models.checkpoints.weight_files import load_weights
from models.errors import ConfigError
from models.records import GRPO, Group, GroupPlan, Rollout, Weights
from models.wan.network import Wan
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from tests.fakes.fixed_weights import FixedWeights

FORKS, MEMBERS = (12, 30, 42, 84), 2
"""Start frames of forks: the first after the first roll of the cache, the last with 27 frames of burn-in in full."""
BURN_IN = [0, 3, 6, 9, 12, 18, 24, 27]
LOSSES = ("ppo", "ratio_norm", "x0_ratio")


def groups(student: Wan, config: Config, burn_in: int) -> list[Group]:
    """Make one group for each of FORKS, with every transition recorded."""
    shape, frames, coarse = config.student, config.group.frames, config.group.coarse
    actor = GroupActor(
        shape, WindowConfig(burn_in_frames=burn_in), encode_text, TinyCodec(), FixedWeights(Weights.of(0, student))
    )
    last = len(shape.timesteps) - 1
    plans = [GroupPlan(GRPO, fork, last, 0, MEMBERS, frames, tuple(range(last)), (0,), coarse, False) for fork in FORKS]
    rollouts = [
        Rollout(i, 0, PROMPTS[7 * i % 72], 10_000 + i, FORKS[-1] + frames, (plan,)) for i, plan in enumerate(plans)
    ]
    return [item for item in actor.windows(rollouts) if isinstance(item, Group)]


def errors(student: Wan, config: Config, made: list[Group], loss: str) -> torch.Tensor:
    """Return |ratio - 1| of every term [N], of the learner's replay to the actor's record."""
    grpo = replace(config.grpo, loss=loss)
    batches = PolicyBatches(student, None, encode_text, config.student, grpo, 6, config.group.coarse)
    values = torch.ones(len(made), MEMBERS, 1, dtype=torch.float64)
    return torch.cat([part.replay.error for part in batches.snapshot(made, values, values.bool())])


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    keys = [argument for argument in arguments if "=" in argument]
    paths = [Path(argument) for argument in arguments if argument not in keys]
    if len(paths) > 1:
        raise ConfigError(str(paths[1]), None, "a second student", "leave it out")
    path = paths[0] if paths else settings.ROOT / "assets/tiny/student_uniform.safetensors"
    config = settings.load(["stage=grpo", *keys])
    own = config.group.burn_in_frames
    student = Wan(config.student.wan).eval()
    load_weights(student, path, "student")
    tables: dict[str, dict[int, torch.Tensor]] = {loss: {} for loss in LOSSES}
    for burn_in in sorted({*BURN_IN, own}):
        sampled = groups(student, config, burn_in)
        for loss in LOSSES:
            tables[loss][burn_in] = errors(student, config, sampled, loss)
    for loss, table in tables.items():
        ratio_errors = table[own]
        print_line(
            "ratio_error",
            ratio_errors.tolist(),
            f"|ratio - 1| at {own} frames of burn-in",
            "cpu, one thread",
            {"loss": loss, "student": path.name, "forks": FORKS, "context_frames": config.student.context_frames}
            | {"group_frames": config.group.frames, "coarse": config.group.coarse},
            limit=config.grpo.clip / 2,
            value=float(ratio_errors.max()),
            by_burn_in_frames={b: {"mean": float(e.mean()), "max": float(e.max())} for b, e in table.items()},
        )


if __name__ == "__main__":
    settings.command(main, Config, __doc__, list, groups=None)
