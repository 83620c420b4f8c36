"""Measure the cost of a usable advantage: groups forked from a shared past, against groups of whole videos.

python -m benchmarks.group_cost [student.safetensors]   real actors and rewards in the tiny world, G = 8, videos of 16
horizons (192 frames), groups of one horizon at uniform forks. CPU seconds of one thread, about a minute. Two JSON
lines: the ratio of costs without rewards and with them.

A usable advantage is a member compared with siblings that share its past, so that their difference comes from the
member's own frames, not from its start. A forked group has one for each member and window of its segment. In a group of
whole videos only the first windows share their past (there is none): the members' second windows continue eight
different first ones, and what they earn mixes luck before the window with what happened in it. So a whole video gives
one usable advantage, for all the blocks behind. `if_every_window_counted` is the ratio where later windows are
compared all the same: then whole videos are cheaper, because all their windows are rewarded, and the past of a forked
video is not.

The forked videos are made as a run makes them: `rollout.batch` of them side by side, all rolled on until the last fork.

On paper for Wan 1.3B at 480x832 on an H100: a block takes 0.70 s, 100 s of video are 134 blocks, a window is 7. One
video at a time, a fork leaves (134 - 7) / 2 blocks before it on average. Decoding and rewards run beside it and are
left out.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import settings
from actors.dispatchers import GroupDispatcher, SentinelTurns
from actors.group_actor import GroupActor
from actors.rollout_config import GroupConfig, RolloutConfig, WindowConfig
from benchmarks.command import run
from benchmarks.line import print_line
from cluster.runs.factory import make_scorer
from cluster.runs.stage_spec import stage_spec
from cluster.supply.group_scoring import GroupScorer
from models.checkpoints.weight_files import load_weights
from models.keys import key
from models.network_config import StudentConfig
from models.records import Group, MadeBlock, Rollout, Weights, first_frames
from models.wan.network import Wan
from models.worlds.tiny_prompts import SENTINEL_PROMPTS, TRAINING_PROMPTS
from models.worlds.tiny_world import encode_text
from models.worlds.video_codec import TinyCodec
from rewards.sentinels import SentinelConfig
from tests.fakes.fixed_weights import FixedWeights

MEMBERS, HORIZONS, BATCH, REPEATS = 8, 16, 8, 5
LIMIT = 1 / 3
PAPER_BLOCK_S, PAPER_BLOCKS, PAPER_WINDOW_BLOCKS = 0.70, 134, 7


def timed(action: Callable[[], list]) -> tuple[float, list]:
    """Return the CPU seconds of this process, which has one thread, and the result."""
    started = time.process_time()
    found = action()
    return time.process_time() - started, found


def dispatch(shape: StudentConfig, group_frames: int, batch: int, number: int) -> list[Rollout]:
    """Make the `number`-th batch of a run with groups of this length."""
    frames = HORIZONS * shape.horizon_frames
    dispatcher = GroupDispatcher(
        shape, RolloutConfig(frames=frames, batch=batch), "uniform", GroupConfig(frames=group_frames, forks=1),
        SentinelTurns(SENTINEL_PROMPTS, 1, SentinelConfig().frames, batch * REPEATS), TRAINING_PROMPTS, seed=0,
    )  # fmt: skip
    return dispatcher.rollouts(1 + number * batch)


def costs(actor: GroupActor, scorer: GroupScorer, rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """Return the CPU seconds per group: of making it, and of scoring all its windows."""
    made_s, items = timed(lambda: list(actor.windows(rollouts)))
    blocks = [item for item in items if isinstance(item, MadeBlock)]
    groups = [item for item in items if isinstance(item, Group)]
    assert len(groups) == len(rollouts) and all(group.members == MEMBERS for group in groups)
    horizon = actor.config.horizon_frames
    rows = {rollout.id: row for row, rollout in enumerate(rollouts)}

    def score() -> list:
        return [scorer(group, first_frames(blocks, rows[group.rollout], group.start, horizon)) for group in groups]

    scored_s, _ = timed(score)
    return made_s / len(groups), scored_s / len(groups)


def on_paper() -> dict[str, float]:
    """Return the GPU seconds per usable advantage for Wan 1.3B at 100 s, and the ratios."""
    past = (PAPER_BLOCKS - PAPER_WINDOW_BLOCKS) / 2
    forked = PAPER_BLOCK_S * (past + MEMBERS * PAPER_WINDOW_BLOCKS) / MEMBERS
    whole = PAPER_BLOCK_S * PAPER_BLOCKS
    every = PAPER_BLOCKS / PAPER_WINDOW_BLOCKS
    return {
        "forked_gpu_s": round(forked, 2),
        "whole_gpu_s": round(whole, 2),
        "ratio": round(forked / whole, 4),
        "ratio_if_every_window_counted": round(forked / whole * every, 4),
    }


@dataclass(kw_only=True)
class Options:
    """Names the student."""

    student: str | None = key(None, "weights of the student; without, the shipped one")


def main(options: Options) -> None:
    torch.set_num_threads(1)
    path = Path(options.student) if options.student else settings.ROOT / "assets/tiny/student_uniform.safetensors"
    shape, config = StudentConfig(), settings.load([])
    student = Wan(shape.wan).eval()
    load_weights(student, path, "student")
    window = WindowConfig(burn_in_frames=GroupConfig().burn_in_frames)
    actor = GroupActor(shape, window, encode_text, TinyCodec(), FixedWeights(Weights.of(0, student)))
    scorer = make_scorer(stage_spec("grpo", config).scorer)
    horizon = shape.horizon_frames
    costs(actor, scorer, dispatch(shape, horizon, 1, 0))  # warm-up
    forked, whole = [], []
    for number in range(REPEATS):
        forked.append(costs(actor, scorer, dispatch(shape, horizon, BATCH, number)))
        whole.append(costs(actor, scorer, dispatch(shape, HORIZONS * horizon, 1, number)))
    shown = {
        "members": MEMBERS,
        "horizons": HORIZONS,
        "group_frames": horizon,
        "videos_side_by_side": BATCH,
        "rewards": list(config.reward.weights),
    }
    for name, parts in (("group_cost", 1), ("group_cost_with_rewards", 2)):
        ratios = [sum(one[:parts]) / sum(other[:parts]) for one, other in zip(forked, whole, strict=True)]
        middle = sorted(ratios)[REPEATS // 2]
        print_line(
            name,
            ratios,
            "cost of a usable advantage, forked over whole videos",
            "cpu, one thread",
            shown,
            limit=LIMIT,
            if_every_window_counted=round(middle * HORIZONS, 4),
            forked_cpu_s=[round(sum(one[:parts]) / MEMBERS, 4) for one in forked],
            whole_cpu_s=[round(sum(one[:parts]) / MEMBERS, 4) for one in whole],
            on_paper_wan_1_3b=on_paper(),
        )


if __name__ == "__main__":
    run(main, __doc__, Options, "student")
