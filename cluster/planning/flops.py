"""Count the floating-point operations of a run, and estimate their time, before anything is made.

An operation is a multiplication or an addition. Only the matrix products of the transformer's blocks are counted
(projections, feed-forward, attention): patches, time, text and head are below one percent of Wan, and Self-Forcing's
own arithmetic leaves them out too. A read of finished frames counts as a whole pass; ours stops at the last layer's
keys and values, 0.6 % of a block earlier.
"""

from dataclasses import dataclass

from actors.teacher_actor import solver_sigmas
from cluster.config.devices import DEVICES
from cluster.planning.run_shape import RunShape, judged_stage
from models.flow_matching import warped_sigmas
from models.network_config import StudentConfig, WanConfig

GRADIENT_PASSES = {False: 3, True: 4}
"""Cost of a pass with gradient in forward passes, by checkpointing, which recomputes each block."""
VAE_LATENT_PIXELS = 60 * 104
VAE_DECODE_FLOPS = 13_550_000_455_680
"""Decoding one latent frame of VAE_LATENT_PIXELS behind others; a video's first, one image, costs a third."""
VAE_ENCODE_IMAGE_FLOPS = 2_718_293_360_640
"""Encoding one image to a latent frame of VAE_LATENT_PIXELS."""


def pass_flops(wan: WanConfig, queries: int, keys: float, layers: int | None = None) -> float:
    """Count one forward pass of `queries` tokens, each of which sees `keys` tokens (their mean) and the text.

    `layers` counts only so many of the layers.
    """
    matrices = 6 * wan.dim**2 + 2 * wan.dim * wan.ffn_dim  # the text's own keys and values are made once per prompt
    attention = 2 * wan.dim * (keys + wan.text_len)
    return 2.0 * (wan.num_layers if layers is None else layers) * queries * (matrices + attention)


def block_pass_flops(student: StudentConfig, seen_frames: int) -> float:
    """Count one pass of a block that sees `seen_frames` frames, itself included: 40.4e12 for Wan 1.3B and 21 frames."""
    tokens = student.wan.tokens_per_frame(student.height, student.width)
    return pass_flops(student.wan, student.block_frames * tokens, seen_frames * tokens)


def read_flops(student: StudentConfig, frames: int, before: int = 0) -> float:
    """Count the read of `frames` finished frames into the cache, behind `before` others: each block sees its window."""
    block = student.block_frames
    return sum(
        block_pass_flops(student, min(first + block, student.attention_frames))
        for first in range(before, before + frames, block)
    )


def rollout_flops(student: StudentConfig, frames: int, before: int = 0) -> float:
    """Count `frames` new frames of one video behind `before` others: every denoising step, then the read."""
    return (len(student.timesteps) + 1) * read_flops(student, frames, before)


def score_flops(wan: WanConfig, student: StudentConfig, frames: int) -> float:
    """Count one pass of a bidirectional network (teacher, critic) over `frames` frames."""
    tokens = frames * wan.tokens_per_frame(student.height, student.width)
    return pass_flops(wan, tokens, tokens)


def masked_flops(student: StudentConfig, frames: int, history: int) -> tuple[float, float]:
    """Count the student's x0 of a window behind `history` frames, in one masked pass: (clean, noisy) forward.

    Clean frames are read without gradient, the window's last block excepted; every noisy block sees its whole window.
    """
    block = student.block_frames
    clean = read_flops(student, history + frames - block)
    return clean, read_flops(student, frames, history)


def replay_flops(
    student: StudentConfig, frames: int, history: int, replay: str, gradient: int, context_gradient: bool = False
) -> float:
    """Count the student's x0 of a window, by `dmd.replay`; a pass with gradient costs `gradient` (1: none)."""
    if replay == "blockwise":
        # The last of the denoising steps is as dear as `gradient` passes; the others, and the read into the cache, one.
        return read_flops(student, history) + (len(student.timesteps) + gradient) * read_flops(student, frames, history)
    clean, noisy = masked_flops(student, frames, history)
    return (gradient if context_gradient else 1) * clean + gradient * noisy


def decode_flops(student: StudentConfig, frames: int) -> float:
    """Count the decoding of `frames` latent frames by Wan's VAE, behind others."""
    return frames * VAE_DECODE_FLOPS * student.height * student.width / VAE_LATENT_PIXELS


def image_latent_flops(student: StudentConfig, context: int) -> float:
    """Count an image latent of a mid-video window: `context` frames before it decoded, the last image encoded."""
    encode = VAE_ENCODE_IMAGE_FLOPS * student.height * student.width / VAE_LATENT_PIXELS
    return decode_flops(student, context) + encode


# -- a run -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Holds one number for a report; `unit` is parameters, B or FLOP."""

    name: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class WindowCost:
    """Holds the operations per window of the student's update, and of the critic's."""

    student: float
    critic: float


@dataclass(frozen=True)
class StageCost:
    """Holds the operations of a whole stage, over all actors and over all learner ranks."""

    stage: str
    actors: float
    learner: float
    ahead: float = 0.0
    """Operations of the actors that end before the learner begins."""


def operations(work: RunShape) -> list[Line]:
    """List the operations of the parts that all else is made of."""
    student, stage = work.student, judged_stage(work.stages)
    block, frames, window = student.block_frames, work.window.frames, window_flops(work, stage)
    one = block_pass_flops(student, student.attention_frames)
    block_flops = rollout_flops(student, block, before=student.attention_frames)
    lines = [
        Line("one pass of a block", one, "FLOP", f"sees {student.attention_frames} frames"),
        Line("one finished block", block_flops, "FLOP", f"{len(student.timesteps)} steps and a read"),
        Line("one rollout", rollout_flops(student, work.rollout.frames), "FLOP", "to rollout.frames"),
        Line("one window of the student", window.student, "FLOP", f"{frames} frames, with scores"),
        Line("one window of the critic", window.critic, "FLOP", f"{frames} frames"),
    ]
    if student.in_wan_world:
        context = work.frames(stage)[1]
        lines += [
            Line("VAE, one block decoded", decode_flops(student, block), "FLOP", f"{block} latent frames"),
            Line(
                "image latent of a mid-video window",
                image_latent_flops(student, context),
                "FLOP",
                f"{context} frames decoded, one image encoded; the first block is left out of the loss",
            ),
        ]
    return lines


def window_flops(work: RunShape, stage: str) -> WindowCost:
    """Count one window of the student's update, and one of the critic's.

    Student: its x0 with gradient, two scores of the teacher, one of the critic. Critic: the student's x0 without
    gradient, one pass of the critic with it.
    """
    student, frames, (_, history) = work.student, work.window.frames, work.frames(stage)
    gradient, replay = GRADIENT_PASSES[work.learner.checkpoint_activations], work.dmd.replay
    own = score_flops(student.wan, student, frames)
    x0 = replay_flops(student, frames, history, replay, gradient, work.dmd.context_gradient)
    return WindowCost(
        student=x0 + 2 * score_flops(work.teacher_wan, student, frames) + own,
        critic=replay_flops(student, frames, history, replay, 1) + gradient * own,
    )


def stage_cost(work: RunShape, stage: str) -> StageCost:
    """Count the operations of a whole stage.

    Rollouts of stage dmd stop after their last window; every mid-video window of Wan also needs an image latent.
    """
    student, ode, dmd, rollout = work.student, work.ode, work.dmd, work.rollout
    gradient = GRADIENT_PASSES[work.learner.checkpoint_activations]
    score = score_flops(work.teacher_wan, student, student.horizon_frames)
    if stage == "grpo":
        return _grpo_cost(work)
    if stage == "teacher":
        return StageCost(stage, 0.0, work.pretrain.steps * work.pretrain.batch_size * gradient * score)
    if stage == "ode":
        steps = len(solver_sigmas(warped_sigmas(student.timesteps, student.shift), ode.solver_steps, student.shift))
        trajectories = ode.pairs if ode.pairs_dir is None else 0
        actor_flops = trajectories * steps * 2 * score
        window = replay_flops(student, student.horizon_frames, 0, "masked", gradient, ode.context_gradient)
        ahead = actor_flops * ode.pairs_at(0) / ode.pairs
        return StageCost(stage, actor_flops, ode.steps * ode.batch_size * window, ahead)
    windows = dmd.steps * dmd.batch_size * (1 + dmd.critic_updates)
    end = round(work.made_share * rollout.frames)
    actor_flops = windows / rollout.windows * rollout_flops(student, end - end % student.block_frames)
    if student.in_wan_world:
        actor_flops += windows * image_latent_flops(student, work.frames(stage)[1])
    window = window_flops(work, stage)
    critic = dmd.critic_updates * window.critic
    return StageCost(stage, actor_flops, dmd.steps * dmd.batch_size * (window.student + critic))


def _grpo_cost(work: RunShape) -> StageCost:
    """Leave out decoding and rewards, which other processes pay, and the sentinels' videos."""
    student, grpo, group = work.student, work.grpo, work.group
    forked = grpo.steps * grpo.groups / group.forks
    past = work.last_fork
    own = rollout_flops(student, group.frames, before=student.attention_frames)
    actor_flops = forked * (rollout_flops(student, past) + group.forks * group.members * own)
    transitions = 1 if group.transitions == "one" else len(student.timesteps) - 1
    clean, noisy = masked_flops(student, group.frames, work.frames("grpo")[1])
    gradient = GRADIENT_PASSES[work.learner.checkpoint_activations]
    networks = 2 if grpo.kl else 1
    passes = networks * (clean + noisy) + grpo.passes * (clean + gradient * noisy)
    learnt = grpo.steps * grpo.groups * group.members * transitions * passes
    if grpo.dmd_weight:
        windows = grpo.steps * grpo.groups * grpo.dmd_members
        window = window_flops(work, "grpo")
        learnt += windows * (grpo.passes * window.student + grpo.critic_updates * window.critic)
    return StageCost("grpo", actor_flops, learnt)


def seconds(work: RunShape, flops: float, processes: int) -> float:
    """Estimate the time of `flops` on `processes` of the expected devices, at the sustained share of their peak."""
    device = DEVICES[work.expected_device]
    per_process = work.cluster.threads if work.expected_device == "cpu" else 1
    return flops / (processes * per_process * device.peak_flops * device.sustained)


def stage_seconds(work: RunShape, cost: StageCost) -> float:
    """Estimate the time of a stage: actors and learner overlap, except for rollouts made ahead."""
    actors, ranks = work.cluster.rollout_actors, work.cluster.learner_ranks
    together = max(seconds(work, cost.actors - cost.ahead, actors), seconds(work, cost.learner, ranks))
    return seconds(work, cost.ahead, actors) + together
