"""Estimate the memory of a run, before anything is allocated."""

from collections.abc import Sequence

from actors.rollout_config import GroupConfig, WindowConfig
from cluster.config.run_config import Config
from cluster.planning.flops import Line
from cluster.planning.rank_memory import (
    PUBLISHING,
    adapter_parameters,
    checkpoint_bytes,
    forward_bytes,
)
from cluster.planning.run_shape import RunShape, frames_of_pass, judged_stage
from cluster.runs.trajectories import trajectory_bytes
from models.network_config import StudentConfig
from models.network_sizes import BYTES, cache_bytes, kv_bytes, latent_bytes, parameters

UMT5_PARAMETERS = 5_680_910_336
"""The text encoder UMT5-XXL."""

VAE_PARAMETERS = 126_892_531
"""Wan2.1's VAE (diffusers' AutoencoderKLWan): encoder and decoder."""
_DECODER_CACHE = 1.9e9 / (480 * 832)
"""Bytes per pixel of the caches of the VAE's decoder in bfloat16; measured (tests/device/test_fake_vae.py)."""
_DECODER_WIDTH = 192
"""Channels of the decoder's widest tensors at full size; a block of it holds four of them at work."""
_CONTEXT = 500_000_000
"""Bytes of a GPU that a process takes by using it: CUDA's context and the kernels that it loads."""
_VIDEO_FRAMES = 4
"""Video frames of every latent frame but the first, by Wan's VAE."""
_LATENT = 4
"""Bytes of a number of a latent: they travel in float32."""


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
    element, context = BYTES[work.rollout.dtype], student.context_frames
    rows, shared, room = batch, 0, context + 2 * student.block_frames
    seen, before, appended = room, student.block_frames, "the block that is appended"
    twice = rows * cache_bytes(student, before, element)
    if stage == "grpo":  # while a group is made the videos behind it wait, and its own cache is appended
        rows, shared = work.group.members, batch
        seen, before = (min(frames, work.group.frames) for frames in (student.attention_frames, context))
        twice = rows * cache_bytes(student, before, element) // student.wan.num_layers
        appended = "the layer that is appended"
    lines = [
        Line("weights", parameters(student.wan) * element, "B", work.rollout.dtype),
        Line("weights that stand by", parameters(student.wan) * element, "B", "the next version, fetched ahead"),
        Line(
            "keys and values of the past",
            shared * cache_bytes(student, room, element),
            "B",
            f"{shared} x {room} frames, which the members share",
        ),
        Line("keys and values", rows * cache_bytes(student, seen, element), "B", f"{rows} x {seen} frames"),
        Line(
            "keys and values of the last block",
            twice,
            "B",
            f"{rows} x {before} frames: {appended}",
        ),
        Line("keys and values of the text", rows * kv_bytes(student.wan, student.wan.text_len, element), "B"),
        Line(
            "latents",
            batch * latent_bytes(student, work.rollout.frames, _LATENT),
            "B",
            f"{batch} x {work.rollout.frames} frames at most",
        ),
    ]
    tokens = rows * student.block_frames * student.wan.tokens_per_frame(student.height, student.width)
    lines.append(Line("one block at work", forward_bytes(student.wan, tokens, element), "B", f"{rows} videos"))
    if work.student.in_wan_world:
        lines.append(Line("VAE", VAE_PARAMETERS * 2, "B", "bfloat16; decoding needs workspace of its own"))
    return [line for line in lines if line.value]


def reward_memory(work: RunShape) -> list[Line]:
    """List the bytes of one reward process on its device, which decodes one member at a time.

    Models of rewards of their own, and RAFT, are not in it; on a CPU neither is the decoder, which may be wan_mini's.
    """
    student, on_gpu = work.student, work.cluster.reward_gpus > 0
    pixels, latents = student.height * student.width * student.space_stride**2, work.group.frames
    stride = _VIDEO_FRAMES if student.in_wan_world else 1
    frames, element = 1 + stride * (latents + work.reward.lead_frames - 1), BYTES["bfloat16" if on_gpu else "float32"]
    # Those of all steps, the same in one tensor, then float32 twice while they are scaled.
    shown = 3 * frames * pixels * (2 * element + 2 * BYTES["float32"])
    lines = [Line("decoded frames", shown, "B", f"{frames} of one member, as its decoding ends")]
    if on_gpu:
        lines.append(Line("CUDA", _CONTEXT, "B", "context and kernels of the process"))
    if on_gpu and student.in_wan_world and work.reward.vae is None:
        at_work = 4 * stride * _DECODER_WIDTH * pixels * element
        lines += [
            Line("VAE", VAE_PARAMETERS * element, "B", "bfloat16"),
            Line("caches of the decoder", _DECODER_CACHE * pixels, "B", "of one member"),
            Line("one frame at work", at_work, "B", f"{stride} video frames in the decoder; an estimate"),
        ]
    return lines


def window_size(
    stages: Sequence[str], student: StudentConfig, window: WindowConfig, group: GroupConfig
) -> tuple[int, int]:
    """Count the latent frames of one window as it travels and waits, and its bytes."""
    frames, history = frames_of_pass(judged_stage(stages), student, window, group)
    held = history + 2 * frames + student.in_wan_world
    return held, latent_bytes(student, held, _LATENT)


def group_size(student: StudentConfig, group: GroupConfig) -> tuple[int, int]:
    """Count the latent frames of one group as it travels and waits, and its bytes: all members, on one past."""
    frames, history = frames_of_pass("grpo", student, WindowConfig(), group)
    transitions = 1 if group.transitions == "one" else len(student.timesteps) - 1
    # Of each member clean and noisy frames, and states, samples and predictions of each transition.
    held = history + group.members * (frames * (2 + 3 * transitions) + student.in_wan_world)
    return held, latent_bytes(student, held, _LATENT)


def buffer_size(run: RunShape | Config) -> tuple[int, str]:
    """Count the bytes that wait in the fullest buffer of a run's stages; the second describes them."""
    _, window = window_size(run.stages, run.student, run.window, run.group)
    size, note = run.buffer.windows * window, f"buffer.windows = {run.buffer.windows}"
    if "grpo" not in run.stages:
        return size, note
    groups = run.buffer.windows
    if run.buffer.policy == "wait":
        groups = min(groups, run.buffer.max_age * run.grpo.groups)
    waiting = groups * group_size(run.student, run.group)[1]
    if run.stages != ["grpo"] and waiting < size:
        return size, note
    return waiting, f"{groups} groups of stage grpo"


def store_sizes(run: RunShape | Config, versions: int = 2) -> tuple[int, int]:
    """Count the bytes of the object store on the driver's node, and on every other, with a quarter to spare.

    The driver's node has room for all that waits. A sample lies where its actor made it, and on the nodes of ranks that
    fetch it, rank 0 all of them for a checkpoint: these are fuller than the second number while it is written, and Ray
    spills to disk. A version of the weights is on a node once, however many processes read it; two `versions` are there
    while actors change from one to the next.
    """
    waiting, _ = buffer_size(run)
    if "ode" in run.stages and run.ode.pairs_dir is None:
        waiting = max(waiting, min(run.buffer.windows, run.ode.pairs) * trajectory_bytes(run.student, "float32"))
    published = versions if any(stage in PUBLISHING for stage in run.stages) else 0
    held = published * parameters(run.student.wan) * BYTES[run.rollout.dtype]
    return int(1.25 * (waiting + held)), int(1.25 * held)


def shared_memory(work: RunShape) -> list[Line]:
    """List the bytes that wait or travel between actors and learner."""
    student = work.student
    frames, window = window_size(work.stages, student, work.window, work.group)
    held = "context, clean, noisy, image" if work.student.in_wan_world else "context, clean, noisy"
    weights = parameters(student.wan) * BYTES[work.rollout.dtype]
    buffer, note = buffer_size(work)
    driver_store, other_store = store_sizes(work)
    lines = [Line("one window", window, "B", f"{frames} latent frames: {held}")]
    if "grpo" in work.stages:
        number, group = group_size(student, work.group)
        lines.append(Line("one group", group, "B", f"{number} latent frames of {work.group.members} members"))
    lines += [
        Line("the buffer", buffer, "B", note),
        Line("one version of the weights", weights, "B", f"{work.rollout.dtype}, from the learner to every actor"),
        Line("object store, driver's node", driver_store, "B", "what waits, two versions, and a quarter to spare"),
        Line("object store, any other node", other_store, "B", "two versions, for all of its processes together"),
    ]
    copies = max(checkpoint_bytes(work, stage) for stage in work.stages)
    if work.expected_device != "cpu" and copies:
        lines.append(Line("one checkpoint", copies, "B", "pinned copies of all ranks, kept from the first one on"))
    if copies and any(stage in PUBLISHING for stage in work.stages):
        lines.append(Line("samples in a checkpoint", buffer, "B", f"{note}, which rank 0 fetches and writes"))
    if work.expected_device != "cpu" and any(stage in PUBLISHING for stage in work.stages):
        note = f"{work.rollout.dtype}, pinned, one for all versions"
        lines.append(Line("published copy of rank 0", weights, "B", note))
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
