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

VAE_LATENT_PIXELS = 60 * 104
VAE_DECODE_FLOPS = 13_550_000_455_680
"""Decoding one latent frame of VAE_LATENT_PIXELS behind others; a video's first, one image, costs a third."""
VAE_ENCODE_IMAGE_FLOPS = 2_718_293_360_640
"""Encoding one image to a latent frame of VAE_LATENT_PIXELS."""


def pass_flops(wan: WanConfig, queries: int, keys: float, layers: int | None = None) -> float:
    """One forward pass of `queries` tokens, each of which sees `keys` tokens (their mean) and the text.

    `layers` counts only so many of the layers.
    """
    matrices = 6 * wan.dim**2 + 2 * wan.dim * wan.ffn_dim  # the text's own keys and values are made once per prompt
    attention = 2 * wan.dim * (keys + wan.text_len)
    return 2.0 * (wan.num_layers if layers is None else layers) * queries * (matrices + attention)


def frame_tokens(student: StudentConfig) -> int:
    """Tokens of one latent frame."""
    return student.wan.tokens_per_frame(student.height, student.width)


def block_pass_flops(student: StudentConfig, seen_frames: int) -> float:
    """One pass of a block that sees `seen_frames` frames, itself included: 40.4e12 for Wan 1.3B and 21 frames."""
    tokens = frame_tokens(student)
    return pass_flops(student.wan, student.block_frames * tokens, seen_frames * tokens)


def read_flops(student: StudentConfig, frames: int, before: int = 0) -> float:
    """Reading `frames` finished frames into the cache, behind `before` others: one pass, each block its window."""
    block = student.block_frames
    return sum(
        block_pass_flops(student, min(first + block, student.attention_frames))
        for first in range(before, before + frames, block)
    )


def rollout_flops(student: StudentConfig, frames: int, before: int = 0) -> float:
    """Making `frames` frames of one video behind `before` others: every denoising step, then the read."""
    return (len(student.timesteps) + 1) * read_flops(student, frames, before)


def score_flops(wan: WanConfig, student: StudentConfig, frames: int) -> float:
    """One pass of a bidirectional network (teacher, critic) over `frames` frames."""
    tokens = frames * wan.tokens_per_frame(student.height, student.width)
    return pass_flops(wan, tokens, tokens)


def gradient_passes(checkpointed: bool) -> int:
    """What a pass with gradient costs, in forward passes: two more going back, one more where blocks are made again."""
    return 4 if checkpointed else 3


def masked_flops(student: StudentConfig, frames: int, history: int) -> tuple[float, float]:
    """The student's x0 of a window of `frames` behind `history` frames, in one masked pass: (clean, noisy) forward.

    Clean frames are read without gradient, the window's last block excepted; every noisy block sees its whole window.
    """
    block = student.block_frames
    clean = read_flops(student, history + frames - block)
    return clean, read_flops(student, frames, history)


def regenerated_flops(student: StudentConfig, frames: int, history: int, gradient: int) -> float:
    """The window made again block by block, its last denoising step as dear as `gradient` passes; history not read."""
    others = len(student.timesteps) - 1 + 1  # the other denoising steps, and the read into the cache
    return (others + gradient) * read_flops(student, frames, history)


def replay_flops(student: StudentConfig, frames: int, history: int, replay: str, gradient: int) -> float:
    """The current student's x0 of a window, by `dmd.replay`; the pass with gradient costs `gradient` (1: none)."""
    if replay == "blockwise":
        return read_flops(student, history) + regenerated_flops(student, frames, history, gradient)
    clean, noisy = masked_flops(student, frames, history)
    return clean + gradient * noisy


def decode_flops(student: StudentConfig, frames: int) -> float:
    """Decoding `frames` latent frames by Wan's VAE, behind others."""
    return frames * VAE_DECODE_FLOPS * student.height * student.width / VAE_LATENT_PIXELS


def image_latent_flops(student: StudentConfig, context: int) -> float:
    """The image latent that opens a mid-video window: `context` frames before it decoded, the last image encoded."""
    encode = VAE_ENCODE_IMAGE_FLOPS * student.height * student.width / VAE_LATENT_PIXELS
    return decode_flops(student, context) + encode


# -- a run -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One number; `unit` is parameters, B or FLOP."""

    name: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class StageCost:
    """Operations of a whole stage: of all actors together, and of all learner ranks together."""

    stage: str
    actors: float
    learner: float
    ahead: float = 0.0
    """Of the actors' operations, those that are over before the learner begins."""


def operations(work: RunShape) -> list[Line]:
    """FLOP of the parts that everything else is made of."""
    student, stage = work.student, judged_stage(work.stages)
    block, frames = student.block_frames, work.window.frames
    one = block_pass_flops(student, student.attention_frames)
    made = rollout_flops(student, block, before=student.attention_frames)
    lines = [
        Line("one pass of a block", one, "FLOP", f"sees {student.attention_frames} frames"),
        Line("one finished block", made, "FLOP", f"{len(student.timesteps)} steps and a read"),
        Line("one rollout", rollout_flops(student, work.rollout.frames), "FLOP", "to rollout.frames"),
        Line("one window of the student", student_window_flops(work, stage), "FLOP", f"{frames} frames, with scores"),
        Line("one window of the critic", critic_window_flops(work, stage), "FLOP", f"{frames} frames"),
    ]
    if work.in_wan_world:
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


def student_window_flops(work: RunShape, stage: str) -> float:
    """One window of the student's update: its x0 with gradient, two scores of the teacher, one of the critic."""
    student, frames = work.student, work.window.frames
    gradient = gradient_passes(work.learner.checkpoint_activations)
    x0 = replay_flops(student, frames, work.frames(stage)[1], work.dmd.replay, gradient)
    teacher = score_flops(work.teacher_wan, student, frames)
    return x0 + 2 * teacher + score_flops(student.wan, student, frames)


def critic_window_flops(work: RunShape, stage: str) -> float:
    """One window of the critic's update: the student's x0 without gradient, one pass of the critic with it."""
    student, frames = work.student, work.window.frames
    gradient = gradient_passes(work.learner.checkpoint_activations)
    x0 = replay_flops(student, frames, work.frames(stage)[1], work.dmd.replay, 1)
    return x0 + gradient * score_flops(student.wan, student, frames)


def stage_cost(work: RunShape, stage: str) -> StageCost:
    """Operations of a whole stage, as it is configured."""
    return {"teacher": _teacher_cost, "ode": _ode_cost, "dmd": _dmd_cost, "grpo": _grpo_cost}[stage](work)


def seconds(work: RunShape, flops: float, processes: int) -> float:
    """Time of `flops` on `processes` of the expected devices, at the share of their peak that the table names."""
    device = DEVICES[work.expected_device]
    per_process = work.cluster.threads if work.expected_device == "cpu" else 1
    return flops / (processes * per_process * device.peak_flops * device.sustained)


def stage_seconds(work: RunShape, cost: StageCost) -> float:
    """Expected time of a stage: actors and learner work side by side, but for what is made ahead."""
    actors, ranks = work.cluster.rollout_actors, work.cluster.learner_ranks
    beside = max(seconds(work, cost.actors - cost.ahead, actors), seconds(work, cost.learner, ranks))
    return seconds(work, cost.ahead, actors) + beside


def _teacher_cost(work: RunShape) -> StageCost:
    videos = work.pretrain.steps * work.pretrain.batch_size
    gradient = gradient_passes(work.learner.checkpoint_activations)
    score = score_flops(work.teacher_wan, work.student, work.student.horizon_frames)
    return StageCost("teacher", 0.0, videos * gradient * score)


def _ode_cost(work: RunShape) -> StageCost:
    student, ode = work.student, work.ode
    steps = len(solver_sigmas(warped_sigmas(student.timesteps, student.shift), ode.solver_steps, student.shift))
    pairs = ode.pairs if ode.pairs_dir is None else 0
    made = pairs * steps * 2 * score_flops(work.teacher_wan, student, student.horizon_frames)
    gradient = gradient_passes(work.learner.checkpoint_activations)
    window = replay_flops(student, student.horizon_frames, 0, "masked", gradient)
    ahead = made * ode.pairs_at(0) / ode.pairs
    return StageCost("ode", made, ode.steps * ode.batch_size * window, ahead)


def _dmd_cost(work: RunShape) -> StageCost:
    """Rollouts stop behind their last window. Every mid-video window of Wan also needs an image latent."""
    student, dmd, rollout = work.student, work.dmd, work.rollout
    windows = dmd.steps * work.dmd_windows
    end = round(work.made_share * rollout.frames)
    made = windows / rollout.windows * rollout_flops(student, end - end % student.block_frames)
    if work.in_wan_world:
        made += windows * image_latent_flops(student, work.frames("dmd")[1])
    critic = dmd.critic_updates * critic_window_flops(work, "dmd")
    return StageCost("dmd", made, dmd.steps * dmd.batch_size * (student_window_flops(work, "dmd") + critic))


def _grpo_cost(work: RunShape) -> StageCost:
    """Without what decoding and rewards cost, which other processes pay, and without the sentinels' videos."""
    student, grpo, group = work.student, work.grpo, work.group
    forked = grpo.steps * grpo.groups / group.forks
    past = work.last_fork
    own = rollout_flops(student, group.frames, before=student.attention_frames)
    made = forked * (rollout_flops(student, past) + group.forks * group.members * own)
    transitions = 1 if group.transitions == "one" else len(student.timesteps) - 1
    clean, noisy = masked_flops(student, group.frames, work.frames("grpo")[1])
    gradient = gradient_passes(work.learner.checkpoint_activations)
    networks = 2 if grpo.kl else 1
    passes = networks * (clean + noisy) + grpo.passes * (clean + gradient * noisy)
    learnt = grpo.steps * grpo.groups * group.members * transitions * passes
    if grpo.dmd_weight:
        windows = grpo.steps * grpo.groups * grpo.dmd_members
        scored = grpo.passes * student_window_flops(work, "grpo")
        learnt += windows * (scored + grpo.critic_updates * critic_window_flops(work, "grpo"))
    return StageCost("grpo", made, learnt)
