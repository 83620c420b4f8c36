"""What a configuration will hold in memory and compute, before anything is made: lines with a number and a unit."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.teacher_actor import solver_sigmas
from cluster.config import Config
from cluster.crew import make_dispatcher
from cluster.planning import made_share
from models import costs
from models.config import WAN_1_3B, StudentConfig
from models.devices import DEVICES
from models.flow import warped_sigmas
from models.rollout import GRPO

_DISPATCHES = 256
"""Dispatches over which the place of forks is averaged."""
_LATENT = 4
"""Latents travel in float32."""


@dataclass(frozen=True)
class Line:
    """One number; `unit` is parameters, B, FLOP, s, windows or share."""

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


def networks(config: Config) -> list[Line]:
    """Parameters of every network, and of those the ones that train."""
    student, teacher = config.student.wan, config.teacher_wan
    lines = [
        Line("student", costs.parameters(student), "parameters", config.student.model),
        Line("critic", costs.parameters(student), "parameters", config.student.model),
        Line("teacher", costs.parameters(teacher), "parameters", config.teacher_model or config.student.model),
    ]
    if config.learner.lora_rank is not None:
        trained = costs.adapter_parameters(student, config.learner.lora_rank)
        lines.append(Line("trained of student, and of critic", trained, "parameters", "adapters (learner.lora_rank)"))
    return lines


def rank_memory(config: Config, stage: str) -> list[Line]:
    """Bytes of one learner rank in stage dmd or grpo; a kernel's own workspace and fragmentation are not in it."""
    student, learner, ranks = config.student, config.learner, config.cluster.learner_ranks
    element, frames = costs.BYTES[learner.dtype], _window_frames(config, stage)
    held = trained = costs.parameters(student.wan)
    if learner.lora_rank is not None:
        trained = costs.adapter_parameters(student.wan, learner.lora_rank)
        held += trained
    part = {name: size / ranks for name, size in costs.TRAINED_BYTES.items()}
    windows = learner.micro_batch or max(1, config.samples_per_update(stage) // ranks)
    clean = _history(config, stage) + frames - student.block_frames
    activations = costs.activation_bytes(
        student.wan, windows * frames * costs.frame_tokens(student), element, learner.checkpoint_activations
    )
    text = windows * costs.kv_bytes(student.wan, student.wan.text_len, element)
    how = ", checkpointed" if learner.checkpoint_activations else ""
    return [
        Line("weights of student and critic", 2 * part["weights"] * held, "B", f"float32, cut over {ranks} ranks"),
        Line("gradients of both", 2 * part["gradients"] * trained, "B", "float32"),
        Line("optimiser of both", 2 * part["optimiser"] * trained, "B", "AdamW's two moments, float32"),
        Line("averaged student", part["weights"] * trained, "B", "float32"),
        Line("teacher", _teacher_bytes(config), "B", learner.teacher_dtype),
        Line("whole blocks", _whole_bytes(config), "B", "one at work, the next, and gradients of one"),
        Line("activations", activations, "B", f"{windows} x {frames} frames{how}"),
        Line("keys and values of the replay", windows * costs.cache_bytes(student, clean, element), "B",
             f"{windows} x {clean} clean frames"),
        Line("keys and values of the text", text, "B"),
    ]  # fmt: skip


def actor_memory(config: Config) -> list[Line]:
    """Bytes of one rollout process."""
    student, batch = config.student, config.rollout.batch
    element = costs.BYTES[config.learner.dtype]
    lines = [
        Line("weights", costs.parameters(student.wan) * element, "B", config.learner.dtype),
        Line(
            "keys and values",
            batch * costs.cache_bytes(student, student.attention_frames, element),
            "B",
            f"{batch} x {student.attention_frames} frames",
        ),
        Line("keys and values of the text", batch * costs.kv_bytes(student.wan, student.wan.text_len, element), "B"),
        Line(
            "latents",
            batch * costs.latent_bytes(student, config.rollout.frames, _LATENT),
            "B",
            f"{batch} x {config.rollout.frames} frames at most",
        ),
    ]
    if is_wan(student):
        lines.append(Line("VAE", costs.VAE_PARAMETERS * 2, "B", "bfloat16; decoding needs workspace of its own"))
    return lines


def shared_memory(config: Config) -> list[Line]:
    """Bytes that wait or travel between actors and learner."""
    student = config.student
    stage = "grpo" if config.stages == ["grpo"] else "dmd"
    frames = _history(config, stage) + 2 * _window_frames(config, stage)
    window = costs.latent_bytes(student, frames, _LATENT)
    weights = costs.parameters(student.wan) * costs.BYTES["float32"]
    lines = [
        Line("one window", window, "B", f"{frames} latent frames: context, clean, noisy"),
        Line("the buffer", config.buffer.windows * window, "B", f"buffer.windows = {config.buffer.windows}"),
        Line("one version of the weights", weights, "B", "float32, from the learner to every actor"),
    ]
    if "ode" in config.stages:
        pair = costs.latent_bytes(student, (len(student.timesteps) + 1) * student.horizon_frames, _LATENT)
        lines.append(
            Line("teacher trajectories", config.ode.pairs * pair, "B", f"{config.ode.pairs} of {pair / 1e6:.1f} MB")
        )
    return lines


def operations(config: Config) -> list[Line]:
    """FLOP of the parts that everything else is made of."""
    student, stage = config.student, "grpo" if config.stages == ["grpo"] else "dmd"
    block, frames = student.block_frames, _window_frames(config, stage)
    one = costs.block_pass_flops(student, student.attention_frames)
    made = costs.rollout_flops(student, block, before=student.attention_frames)
    lines = [
        Line("one pass of a block", one, "FLOP", f"sees {student.attention_frames} frames"),
        Line("one finished block", made, "FLOP", f"{len(student.timesteps)} steps and a read"),
        Line("one rollout", costs.rollout_flops(student, config.rollout.frames), "FLOP", "to rollout.frames"),
        Line("one window of the student", student_window_flops(config, stage), "FLOP", f"{frames} frames, with scores"),
        Line("one window of the critic", critic_window_flops(config, stage), "FLOP", f"{frames} frames"),
    ]
    if is_wan(student):
        context = student.context_frames
        lines += [
            Line("VAE, one block decoded", costs.decode_flops(student, block), "FLOP", f"{block} latent frames"),
            Line(
                "image latent of a mid-video window",
                costs.image_latent_flops(student, context),
                "FLOP",
                f"{context} frames decoded, one image encoded; the first block is left out of the loss",
            ),
        ]
    return lines


def student_window_flops(config: Config, stage: str) -> float:
    """One window of the student's update: its x0 with gradient, two scores of the teacher, one of the critic."""
    student, frames = config.student, _window_frames(config, stage)
    gradient = costs.gradient_passes(config.learner.checkpoint_activations)
    x0 = costs.replay_flops(student, frames, _history(config, stage), config.dmd.replay, gradient)
    teacher = costs.score_flops(config.teacher_wan, student, frames)
    return x0 + 2 * teacher + costs.score_flops(student.wan, student, frames)


def critic_window_flops(config: Config, stage: str) -> float:
    """One window of the critic's update: the student's x0 without gradient, one pass of the critic with it."""
    student, frames = config.student, _window_frames(config, stage)
    gradient = costs.gradient_passes(config.learner.checkpoint_activations)
    x0 = costs.replay_flops(student, frames, _history(config, stage), config.dmd.replay, 1)
    return x0 + gradient * costs.score_flops(student.wan, student, frames)


def stage_cost(config: Config, stage: str) -> StageCost:
    """Operations of a whole stage, as it is configured."""
    return {"teacher": _teacher_cost, "ode": _ode_cost, "dmd": _dmd_cost, "grpo": _grpo_cost}[stage](config)


def seconds(config: Config, flops: float, processes: int) -> float:
    """Expected time of `flops` on `processes` devices of `device_name`, at the share of their peak that it assumes."""
    device = DEVICES[config.device_name]
    per_process = config.cluster.threads if config.device_name == "cpu" else 1
    return flops / (processes * per_process * device.peak_flops * device.sustained)


def is_wan(student: StudentConfig) -> bool:
    """Whether latents are those of Wan's VAE, and text that of its encoder."""
    return student.wan.text_dim == WAN_1_3B.text_dim


def total(lines: Sequence[Line]) -> float:
    """The sum of their values."""
    return sum(line.value for line in lines)


def _window_frames(config: Config, stage: str) -> int:
    return config.group.frames if stage == "grpo" else config.window.frames


def _history(config: Config, stage: str) -> int:
    """Clean frames that come with a window."""
    return config.student.context_frames + config.window_of(stage).burn_in_frames


def _teacher_bytes(config: Config) -> float:
    if config.learner.teacher_offload:
        return 0.0
    size = costs.BYTES[config.learner.teacher_dtype] * costs.parameters(config.teacher_wan)
    return size / config.cluster.learner_ranks


def _whole_bytes(config: Config) -> float:
    """FSDP2 makes one block whole, fetches the next, and holds a whole block's gradients until they are reduced."""
    learner = config.learner
    if config.cluster.learner_ranks == 1 and learner.dtype == "float32":
        return 0.0
    own = 3 * costs.block_parameters(config.student.wan) * costs.BYTES[learner.dtype]
    return max(own, 2 * costs.block_parameters(config.teacher_wan) * costs.BYTES[learner.teacher_dtype])


def _teacher_cost(config: Config) -> StageCost:
    videos = config.pretrain.steps * config.pretrain.batch_size
    gradient = costs.gradient_passes(config.learner.checkpoint_activations)
    score = costs.score_flops(config.teacher_wan, config.student, config.student.horizon_frames)
    return StageCost("teacher", 0.0, videos * gradient * score)


def _ode_cost(config: Config) -> StageCost:
    student, ode = config.student, config.ode
    steps = len(solver_sigmas(warped_sigmas(student.timesteps, student.shift), ode.solver_steps, student.shift))
    made = ode.pairs * steps * 2 * costs.score_flops(config.teacher_wan, student, student.horizon_frames)
    gradient = costs.gradient_passes(config.learner.checkpoint_activations)
    window = costs.replay_flops(student, student.horizon_frames, 0, "masked", gradient)
    return StageCost("ode", made, ode.steps * ode.batch_size * window)


def _dmd_cost(config: Config) -> StageCost:
    """Rollouts stop behind their last window. Every mid-video window of Wan also needs an image latent."""
    student, dmd, rollout = config.student, config.dmd, config.rollout
    windows = dmd.steps * config.samples_per_update("dmd")
    end = round(made_share(config) * rollout.frames)
    made = windows / rollout.windows * costs.rollout_flops(student, end - end % student.block_frames)
    if is_wan(student):
        made += windows * costs.image_latent_flops(student, student.context_frames)
    critic = dmd.critic_updates * critic_window_flops(config, "dmd")
    return StageCost("dmd", made, dmd.steps * dmd.batch_size * (student_window_flops(config, "dmd") + critic))


def _grpo_cost(config: Config) -> StageCost:
    """Without what decoding and rewards cost, which other processes pay, and without the sentinels' videos."""
    student, grpo, group = config.student, config.grpo, config.group
    forked = grpo.steps * grpo.groups / group.forks
    past = _mean_last_fork(config)
    own = costs.rollout_flops(student, group.frames, before=student.attention_frames)
    made = forked * (costs.rollout_flops(student, past) + group.forks * group.members * own)
    transitions = 1 if group.transitions == "one" else len(student.timesteps) - 1
    clean, noisy = costs.masked_flops(student, group.frames, _history(config, "grpo"))
    gradient = costs.gradient_passes(config.learner.checkpoint_activations)
    networks = 2 if grpo.kl else 1
    passes = networks * (clean + noisy) + grpo.passes * (clean + gradient * noisy)
    learnt = grpo.steps * grpo.groups * group.members * transitions * passes
    if grpo.dmd_weight:
        windows = grpo.steps * grpo.groups * grpo.dmd_members
        scored = grpo.passes * student_window_flops(config, "grpo")
        learnt += windows * (scored + grpo.critic_updates * critic_window_flops(config, "grpo"))
    return StageCost("grpo", made, learnt)


def _mean_last_fork(config: Config) -> int:
    """Frames that a rollout has before its last fork, on average over what a run with this seed dispatches."""
    dispatcher = make_dispatcher("grpo", config)
    last = [
        max(plan.start for plan in rollout.windows)
        for number in range(_DISPATCHES)
        for rollout in dispatcher.rollouts(config.sentinel.prompts + number * config.rollout.batch)
        if rollout.windows[0].role == GRPO
    ]
    return round(sum(last) / len(last) / config.student.block_frames) * config.student.block_frames
