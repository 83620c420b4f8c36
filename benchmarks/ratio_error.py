"""How far the learner's replay of a policy is from the actor's record, by burn-in, in the ratio that the clip bounds.

python -m benchmarks.ratio_error [student.safetensors]   one JSON line for each loss that has a ratio: the largest
|ratio - 1| over all transitions and blocks of four groups, same weights, float32, before any update. The limit is half
of grpo.clip: with more, training refuses the burn-in.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

import settings
from actors.config import WindowConfig
from actors.group_actor import GroupActor
from benchmarks.command import run
from benchmarks.fixed_weights import FixedWeights
from benchmarks.line import print_line
from learner.config import LearnerConfig
from learner.policy_batches import PolicyBatches
from learner.policy_config import GrpoConfig
from models.config import StudentConfig
from models.files import load_weights
from models.rollout import GRPO, Group, GroupPlan, Rollout, Weights
from models.tiny_world import PROMPTS, encode_text
from models.video_codec import TinyCodec
from models.wan import Wan

FORKS, MEMBERS, FRAMES = (12, 30, 42, 84), 2, 12
"""The first behind the first roll of the cache, the last with all that 27 frames of burn-in can see before it."""
BURN_IN = [0, 3, 6, 9, 12, 18, 24, 27]
LOSSES = ("ppo", "ratio_norm", "x0_ratio")


def groups(student: Wan, shape: StudentConfig, burn_in: int) -> list[Group]:
    """One group for each of FORKS, with every transition recorded."""
    actor = GroupActor(
        shape, WindowConfig(burn_in_frames=burn_in), encode_text, TinyCodec(), FixedWeights(Weights.of(0, student))
    )
    last = len(shape.timesteps) - 1
    plans = [GroupPlan(GRPO, fork, last, 0, MEMBERS, FRAMES, tuple(range(last)), (0,), 1.0, False) for fork in FORKS]
    rollouts = [
        Rollout(i, 0, PROMPTS[7 * i % 72], 10_000 + i, FORKS[-1] + FRAMES, (plan,)) for i, plan in enumerate(plans)
    ]
    return [item for item in actor.windows(rollouts) if isinstance(item, Group)]


def errors(student: Wan, shape: StudentConfig, made: list[Group], loss: str) -> torch.Tensor:
    """|ratio - 1| of every term [N], of the learner's replay to what the actor recorded."""
    batches = PolicyBatches(student, None, encode_text, shape, GrpoConfig(loss=loss), LearnerConfig(micro_batch=6))
    values = torch.ones(len(made), MEMBERS, 1, dtype=torch.float64)
    return torch.cat([part.replay[:, 0] for part in batches.remember(made, values, values.bool())])


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    path = Path(arguments[0]) if arguments else settings.ROOT / "assets/tiny/student_uniform.safetensors"
    shape, config = StudentConfig(), GrpoConfig()
    student = Wan(shape.wan).eval()
    load_weights(student, path, "student")
    tables: dict[str, dict[int, torch.Tensor]] = {loss: {} for loss in LOSSES}
    for burn_in in BURN_IN:
        made = groups(student, shape, burn_in)
        for loss in LOSSES:
            tables[loss][burn_in] = errors(student, shape, made, loss)
    for loss, table in tables.items():
        full = table[BURN_IN[-1]]
        print_line(
            "ratio_error",
            full.tolist(),
            f"|ratio - 1| at {BURN_IN[-1]} frames of burn-in",
            "cpu, one thread",
            {"loss": loss, "student": path.name, "forks": FORKS, "context_frames": shape.context_frames},
            limit=config.clip / 2,
            value=float(full.max()),
            by_burn_in_frames={b: {"mean": float(e.mean()), "max": float(e.max())} for b, e in table.items()},
        )


if __name__ == "__main__":
    run("benchmarks.ratio_error", __doc__, main)
