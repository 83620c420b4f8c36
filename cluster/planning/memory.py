"""Estimate the memory of a run, before anything is allocated."""

from collections.abc import Sequence

from actors.rollout_config import GroupConfig, WindowConfig
from cluster.planning.flops import Line
from cluster.planning.run_shape import RunShape, frames_of_pass, judged_stage
from cluster.runs.trajectories import trajectory_bytes
from models.network_config import StudentConfig, WanConfig
from models.network_sizes import BYTES, block_parameters, cache_bytes, kv_bytes, latent_bytes, parameters

TRAINED_BYTES = {"weights": 4, "gradients": 4, "optimiser": 8}
"""Bytes per trained parameter in float32, 16 with AdamW's two moments. Networks compute in a smaller copy."""

UMT5_PARAMETERS = 5_680_910_336
"""The text encoder UMT5-XXL."""

VAE_PARAMETERS = 126_892_531
"""Wan2.1's VAE (diffusers' AutoencoderKLWan): encoder and decoder."""
_LATENT = 4
"""Bytes of a number of a latent: they travel in float32."""


def adapter_parameters(wan: WanConfig, rank: int) -> int:
    """Count those of LoRA adapters on all matrices of the blocks: two attentions of four, and the feed-forward."""
    return wan.num_layers * rank * (8 * 2 * wan.dim + 2 * (wan.dim + wan.ffn_dim))


def activation_bytes(wan: WanConfig, tokens: int, element: int, checkpointed: bool) -> int:
    """Count the bytes of activations that a pass with gradient over `tokens` keeps for its backward pass.

    Checkpointed: the input of every block, and one block's own. Else every block's own, as `Block.forward` saves,
    with gates and norms in float32. Masks, text and tensors kept once per frame are left out.
    """
    inside = tokens * (wan.dim * (10 * element + 12 * 4) + 2 * wan.ffn_dim * element)
    if not checkpointed:
        return wan.num_layers * inside
    return wan.num_layers * tokens * wan.dim * element + inside


# -- a run -------------------------------------------------------------------------------------------------------------


def networks(work: RunShape) -> list[Line]:
    """List the parameters of every network, and those that train."""
    student, teacher = work.student.wan, work.teacher_wan
    lines = [
        Line("student", parameters(student), "parameters", work.student.model),
        Line("critic", parameters(student), "parameters", work.student.model),
        Line("teacher", parameters(teacher), "parameters", work.teacher_model or work.student.model),
    ]
    if work.learner.lora_rank is not None:
        trained = adapter_parameters(student, work.learner.lora_rank)
        lines.append(Line("trained of student, and of critic", trained, "parameters", "adapters (learner.lora_rank)"))
    return lines


def rank_memory(work: RunShape, stage: str) -> list[Line]:
    """List the bytes of one learner rank; a kernel's own workspace and fragmentation are not in it."""
    learner, ranks, student = work.learner, work.cluster.learner_ranks, work.student
    wan = work.teacher_wan if stage == "teacher" else student.wan
    held = trained = parameters(wan)
    if learner.lora_rank is not None and stage in ("dmd", "grpo"):
        trained = adapter_parameters(wan, learner.lora_rank)
        held += trained
    part = {name: size / ranks for name, size in TRAINED_BYTES.items()}
    with_critic = stage == "dmd" or bool(stage == "grpo" and work.grpo.dmd_weight)
    networks = 2 if with_critic else 1
    whose = "student and critic" if with_critic else "teacher" if stage == "teacher" else "student"
    averages = part["weights"] * trained if stage != "ode" else 0.0
    frozen = 0
    if not learner.teacher_offload:  # the teacher, and in stage grpo the student that KL is taken to
        frozen += parameters(work.teacher_wan) if with_critic else 0
        frozen += parameters(student.wan) if stage == "grpo" and work.grpo.kl else 0
    full_blocks = 0.0
    if ranks > 1 or learner.dtype != "float32":
        # FSDP2 makes one block whole, fetches the next, and holds a whole block's gradients until they are reduced.
        own = 3 * block_parameters(student.wan) * BYTES[learner.dtype]
        full_blocks = max(own, 2 * block_parameters(work.teacher_wan) * BYTES[learner.teacher_dtype])
    lines = [
        Line("weights", networks * part["weights"] * held, "B", f"float32, of {whose}; cut over the ranks"),
        Line("gradients", networks * part["gradients"] * trained, "B", "float32"),
        Line("optimiser", networks * part["optimiser"] * trained, "B", "AdamW's two moments, float32"),
        Line("averages", averages, "B", "float32"),
        Line(
            "frozen networks",
            BYTES[learner.teacher_dtype] * frozen / ranks,
            "B",
            f"{learner.teacher_dtype}, cut over the ranks",
        ),
        Line("whole blocks", full_blocks, "B", "one at work, the next, and gradients of one"),
        *_pass_memory(work, stage, wan),
    ]
    return [line for line in lines if line.value]


def _pass_memory(work: RunShape, stage: str, wan: WanConfig) -> list[Line]:
    """List the bytes of one pass with gradient."""
    student, learner = work.student, work.learner
    if stage == "grpo":
        transitions = 1 if work.group.transitions == "one" else len(student.timesteps) - 1
        rows = work.grpo.groups // work.grpo.minibatches * work.group.members * transitions
    else:
        rows = {"teacher": work.pretrain, "ode": work.ode, "dmd": work.dmd}[stage].batch_size
    windows = learner.micro_batch or rows // work.cluster.learner_ranks
    element, (frames, history) = BYTES[learner.dtype], work.frames(stage)
    tokens = windows * frames * student.wan.tokens_per_frame(student.height, student.width)
    activations = activation_bytes(wan, tokens, element, learner.checkpoint_activations)
    clean = 0 if stage == "teacher" else history + frames - student.block_frames
    how = ", checkpointed" if learner.checkpoint_activations else ""
    return [
        Line("activations", activations, "B", f"{windows} x {frames} frames{how}"),
        Line(
            "keys and values of the replay",
            windows * cache_bytes(student, clean, element),
            "B",
            f"{windows} x {clean} clean frames",
        ),
        Line("keys and values of the text", windows * kv_bytes(wan, wan.text_len, element), "B"),
    ]


def actor_memory(work: RunShape, stage: str) -> list[Line]:
    """List the bytes of one rollout process; a kernel's own workspace and fragmentation are not in it."""
    if stage != "ode":
        return _student_actor_memory(work, stage)
    student, teacher, batch = work.student, work.teacher_wan, work.rollout.batch
    element, frames = BYTES[work.rollout.dtype], student.horizon_frames
    tokens = 2 * batch * frames * teacher.tokens_per_frame(student.height, student.width)
    block = tokens * (teacher.dim * (4 * element + 2 * 4) + 2 * teacher.ffn_dim * element)
    states = (len(student.timesteps) + 1) * frames
    return [
        Line("weights", parameters(teacher) * element, "B", f"{work.rollout.dtype}, of the teacher"),
        # Without gradient: a block's input and its widest product, gates in float32.
        Line("one block at work", block, "B", f"2 x {batch} x {frames} frames"),
        Line("latents", batch * latent_bytes(student, states, _LATENT), "B", "at the levels that are kept"),
    ]


def _student_actor_memory(work: RunShape, stage: str) -> list[Line]:
    student, batch = work.student, work.rollout.batch
    element = BYTES[work.rollout.dtype]
    lines = [
        Line("weights", parameters(student.wan) * element, "B", work.rollout.dtype),
        Line("weights that stand by", parameters(student.wan) * element, "B", "the next version, fetched ahead"),
        Line(
            "keys and values",
            batch * cache_bytes(student, student.attention_frames, element),
            "B",
            f"{batch} x {student.attention_frames} frames",
        ),
        Line(
            "keys and values of the last block",
            batch * cache_bytes(student, student.context_frames, element),
            "B",
            f"{batch} x {student.context_frames} frames: the cache before it, while it is appended",
        ),
        Line("keys and values of the text", batch * kv_bytes(student.wan, student.wan.text_len, element), "B"),
        Line(
            "latents",
            batch * latent_bytes(student, work.rollout.frames, _LATENT),
            "B",
            f"{batch} x {work.rollout.frames} frames at most",
        ),
    ]
    if stage == "grpo":
        members, frames = work.group.members, min(work.group.frames, student.attention_frames)
        own = members * cache_bytes(student, frames, element)
        lines.append(Line("keys and values of a group", own, "B", f"{members} x {frames} frames of their own"))
    if work.student.in_wan_world:
        lines.append(Line("VAE", VAE_PARAMETERS * 2, "B", "bfloat16; decoding needs workspace of its own"))
    return lines


def window_size(
    stages: Sequence[str], student: StudentConfig, window: WindowConfig, group: GroupConfig
) -> tuple[int, int]:
    """Count the latent frames of one window as it travels and waits, and its bytes."""
    frames, history = frames_of_pass(judged_stage(stages), student, window, group)
    held = history + 2 * frames + student.in_wan_world
    return held, latent_bytes(student, held, _LATENT)


def shared_memory(work: RunShape) -> list[Line]:
    """List the bytes that wait or travel between actors and learner."""
    student = work.student
    frames, window = window_size(work.stages, student, work.window, work.group)
    held = "context, clean, noisy, image" if work.student.in_wan_world else "context, clean, noisy"
    weights = parameters(student.wan) * BYTES[work.rollout.dtype]
    lines = [
        Line("one window", window, "B", f"{frames} latent frames: {held}"),
        Line("the buffer", work.buffer.windows * window, "B", f"buffer.windows = {work.buffer.windows}"),
        Line("one version of the weights", weights, "B", f"{work.rollout.dtype}, from the learner to every actor"),
    ]
    if "ode" in work.stages and work.ode.pairs_dir is None:
        pair, waiting = trajectory_bytes(work.student, "float32"), min(work.buffer.windows, work.ode.pairs)
        ranks, shard = work.cluster.learner_ranks, work.ode.shard_mb * 1e6
        lines += [
            Line("one trajectory of the teacher", pair, "B", "float32, from an actor to every rank"),
            Line("trajectories that wait", waiting * pair, "B", f"{waiting} at most, ahead of the learner"),
            Line("trajectories not yet on disk", ranks * shard, "B", f"one file at most, on each of {ranks} ranks"),
        ]
    return lines


def disk(work: RunShape) -> list[Line]:
    """List the bytes that stages leave in the run folder, without checkpoints."""
    if "ode" not in work.stages or work.ode.pairs_dir is not None:
        return []
    pairs, pair = work.ode.pairs, trajectory_bytes(work.student, work.ode.dtype)
    note = f"{pairs} of {pair / 1e6:.1f} MB, {work.ode.dtype}, in files of {work.ode.shard_mb} MB"
    return [Line("trajectories of the teacher", pairs * pair, "B", note)]
