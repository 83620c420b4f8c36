"""What a configuration will hold in memory, before anything is made."""

from collections.abc import Sequence

from cluster.config.run_config import Config
from cluster.planning import wan_costs
from cluster.planning.stage_costs import Line, history_frames, judged_stage, window_frames
from cluster.runs.trajectories import trajectory_bytes
from models.network_config import WanConfig

_LATENT = 4
"""Bytes of a number of a latent: they travel in float32."""


def networks(config: Config) -> list[Line]:
    """Parameters of every network, and of those the ones that train."""
    student, teacher = config.student.wan, config.teacher_wan
    lines = [
        Line("student", wan_costs.parameters(student), "parameters", config.student.model),
        Line("critic", wan_costs.parameters(student), "parameters", config.student.model),
        Line("teacher", wan_costs.parameters(teacher), "parameters", config.teacher_model or config.student.model),
    ]
    if config.learner.lora_rank is not None:
        trained = wan_costs.adapter_parameters(student, config.learner.lora_rank)
        lines.append(Line("trained of student, and of critic", trained, "parameters", "adapters (learner.lora_rank)"))
    return lines


def rank_memory(config: Config, stage: str) -> list[Line]:
    """Bytes of one learner rank; a kernel's own workspace and fragmentation are not in it."""
    lines = [*_weights_memory(config, stage), *_pass_memory(config, stage)]
    return [line for line in lines if line.value]


def _weights_memory(config: Config, stage: str) -> list[Line]:
    wan, learner = _trained_wan(config, stage), config.learner
    held = trained = wan_costs.parameters(wan)
    if learner.lora_rank is not None and stage in ("dmd", "grpo"):
        trained = wan_costs.adapter_parameters(wan, learner.lora_rank)
        held += trained
    part = {name: size / config.cluster.learner_ranks for name, size in wan_costs.TRAINED_BYTES.items()}
    networks = _trained_networks(config, stage)
    whose = "student and critic" if networks == 2 else "teacher" if stage == "teacher" else "student"
    averages = part["weights"] * trained if stage != "ode" else 0.0
    return [
        Line("weights", networks * part["weights"] * held, "B", f"float32, of {whose}; cut over the ranks"),
        Line("gradients", networks * part["gradients"] * trained, "B", "float32"),
        Line("optimiser", networks * part["optimiser"] * trained, "B", "AdamW's two moments, float32"),
        Line("averages", averages, "B", "float32"),
        Line("frozen networks", _frozen_bytes(config, stage), "B", f"{learner.teacher_dtype}, cut over the ranks"),
        Line("whole blocks", _whole_bytes(config), "B", "one at work, the next, and gradients of one"),
    ]


def _pass_memory(config: Config, stage: str) -> list[Line]:
    student, learner, wan = config.student, config.learner, _trained_wan(config, stage)
    element, frames = wan_costs.BYTES[learner.dtype], window_frames(config, stage)
    windows = learner.micro_batch or _share_of_rank(config, stage)
    tokens = windows * frames * wan_costs.frame_tokens(student)
    activations = wan_costs.activation_bytes(wan, tokens, element, learner.checkpoint_activations)
    clean = 0 if stage == "teacher" else history_frames(config, stage) + frames - student.block_frames
    replay = windows * wan_costs.cache_bytes(student, clean, element)
    text = windows * wan_costs.kv_bytes(wan, wan.text_len, element)
    how = ", checkpointed" if learner.checkpoint_activations else ""
    return [
        Line("activations", activations, "B", f"{windows} x {frames} frames{how}"),
        Line("keys and values of the replay", replay, "B", f"{windows} x {clean} clean frames"),
        Line("keys and values of the text", text, "B"),
    ]


def actor_memory(config: Config, stage: str) -> list[Line]:
    """Bytes of one rollout process; a kernel's own workspace and fragmentation are not in it."""
    return _teacher_actor_memory(config) if stage == "ode" else _student_actor_memory(config, stage)


def _teacher_actor_memory(config: Config) -> list[Line]:
    student, teacher, batch = config.student, config.teacher_wan, config.rollout.batch
    element, frames = wan_costs.BYTES[config.rollout.dtype], student.horizon_frames
    tokens = 2 * batch * frames * teacher.tokens_per_frame(student.height, student.width)
    states = (len(student.timesteps) + 1) * frames
    return [
        Line("weights", wan_costs.parameters(teacher) * element, "B", f"{config.rollout.dtype}, of the teacher"),
        Line(
            "one block at work",
            wan_costs.working_bytes(teacher, tokens, element),
            "B",
            f"2 x {batch} x {frames} frames",
        ),
        Line("latents", batch * wan_costs.latent_bytes(student, states, _LATENT), "B", "at the levels that are kept"),
    ]


def _student_actor_memory(config: Config, stage: str) -> list[Line]:
    student, batch = config.student, config.rollout.batch
    element = wan_costs.BYTES[config.rollout.dtype]
    lines = [
        Line("weights", wan_costs.parameters(student.wan) * element, "B", config.rollout.dtype),
        Line(
            "weights that stand by", wan_costs.parameters(student.wan) * element, "B", "the next version, fetched ahead"
        ),
        Line(
            "keys and values",
            batch * wan_costs.cache_bytes(student, student.attention_frames, element),
            "B",
            f"{batch} x {student.attention_frames} frames",
        ),
        Line(
            "keys and values of the last block",
            batch * wan_costs.cache_bytes(student, student.context_frames, element),
            "B",
            f"{batch} x {student.context_frames} frames: the cache before it, while it is appended",
        ),
        Line(
            "keys and values of the text", batch * wan_costs.kv_bytes(student.wan, student.wan.text_len, element), "B"
        ),
        Line(
            "latents",
            batch * wan_costs.latent_bytes(student, config.rollout.frames, _LATENT),
            "B",
            f"{batch} x {config.rollout.frames} frames at most",
        ),
    ]
    if stage == "grpo":
        members, frames = config.group.members, min(config.group.frames, student.attention_frames)
        own = members * wan_costs.cache_bytes(student, frames, element)
        lines.append(Line("keys and values of a group", own, "B", f"{members} x {frames} frames of their own"))
    if config.in_wan_world:
        lines.append(Line("VAE", wan_costs.VAE_PARAMETERS * 2, "B", "bfloat16; decoding needs workspace of its own"))
    return lines


def shared_memory(config: Config) -> list[Line]:
    """Bytes that wait or travel between actors and learner."""
    student = config.student
    stage = judged_stage(config)
    frames = history_frames(config, stage) + 2 * window_frames(config, stage) + config.in_wan_world
    window = wan_costs.latent_bytes(student, frames, _LATENT)
    held = "context, clean, noisy, image" if config.in_wan_world else "context, clean, noisy"
    weights = wan_costs.parameters(student.wan) * wan_costs.BYTES[config.rollout.dtype]
    lines = [
        Line("one window", window, "B", f"{frames} latent frames: {held}"),
        Line("the buffer", config.buffer.windows * window, "B", f"buffer.windows = {config.buffer.windows}"),
        Line("one version of the weights", weights, "B", f"{config.rollout.dtype}, from the learner to every actor"),
    ]
    if "ode" in config.stages and config.ode.pairs_dir is None:
        pair, waiting = trajectory_bytes(config.student, "float32"), min(config.buffer.windows, config.ode.pairs)
        ranks, shard = config.cluster.learner_ranks, config.ode.shard_mb * 1e6
        lines += [
            Line("one trajectory of the teacher", pair, "B", "float32, from an actor to every rank"),
            Line("trajectories that wait", waiting * pair, "B", f"{waiting} at most, ahead of the learner"),
            Line("trajectories not yet on disk", ranks * shard, "B", f"one file at most, on each of {ranks} ranks"),
        ]
    return lines


def disk(config: Config) -> list[Line]:
    """Bytes that stages leave in the run folder, beside checkpoints."""
    if "ode" not in config.stages or config.ode.pairs_dir is not None:
        return []
    pairs, pair = config.ode.pairs, trajectory_bytes(config.student, config.ode.dtype)
    note = f"{pairs} of {pair / 1e6:.1f} MB, {config.ode.dtype}, in files of {config.ode.shard_mb} MB"
    return [Line("trajectories of the teacher", pairs * pair, "B", note)]


def total(lines: Sequence[Line]) -> float:
    """The sum of their values."""
    return sum(line.value for line in lines)


def _trained_wan(config: Config, stage: str) -> WanConfig:
    return config.teacher_wan if stage == "teacher" else config.student.wan


def _trained_networks(config: Config, stage: str) -> int:
    """Student (or teacher) alone, or with its critic."""
    return 2 if stage == "dmd" or (stage == "grpo" and config.grpo.dmd_weight) else 1


def _share_of_rank(config: Config, stage: str) -> int:
    """Windows in one forward pass where learner.micro_batch does not say."""
    if stage == "grpo":
        transitions = 1 if config.group.transitions == "one" else len(config.student.timesteps) - 1
        rows = config.grpo.groups // config.grpo.minibatches * config.group.members * transitions
    else:
        part = {"teacher": config.pretrain, "ode": config.ode, "dmd": config.dmd}[stage]
        rows = part.batch_size
    return rows // config.cluster.learner_ranks


def _frozen_bytes(config: Config, stage: str) -> float:
    """The teacher, and in stage grpo the student that KL is taken to."""
    learner, size = config.learner, 0
    if _trained_networks(config, stage) == 2 and not learner.teacher_offload:
        size += wan_costs.parameters(config.teacher_wan)
    if stage == "grpo" and config.grpo.kl and not learner.teacher_offload:
        size += wan_costs.parameters(config.student.wan)
    return wan_costs.BYTES[learner.teacher_dtype] * size / config.cluster.learner_ranks


def _whole_bytes(config: Config) -> float:
    """FSDP2 makes one block whole, fetches the next, and holds a whole block's gradients until they are reduced."""
    learner = config.learner
    if config.cluster.learner_ranks == 1 and learner.dtype == "float32":
        return 0.0
    own = 3 * wan_costs.block_parameters(config.student.wan) * wan_costs.BYTES[learner.dtype]
    return max(own, 2 * wan_costs.block_parameters(config.teacher_wan) * wan_costs.BYTES[learner.teacher_dtype])
