"""Check keys of a run against each other, each rule on the parts that it compares.

Every function raises ConfigError. `Config` calls them all, and those of grpo_rules, whenever one is made.
"""

import math
from collections.abc import Mapping, Sequence

import numpy

from actors.rollout_config import RolloutConfig, WindowConfig
from actors.window_law import Priority, parse_law, window_starts
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig, DebugConfig
from cluster.config.training_evaluation_config import TrainingEvaluationConfig
from learner.stage_config import LearnerConfig
from models.errors import ConfigError, written
from models.keys import nearest_multiples
from models.network_config import CONFIGS, StudentConfig

STAGES = ("teacher", "ode", "dmd", "grpo")


def check_stages(stages: Sequence[str], init: str | None, grpo_init: str | None, debug: DebugConfig) -> None:
    """Check the order of stages, and that no given student competes with one that a stage makes."""
    if not stages:
        raise ConfigError("stage", [], "no stage is named", f"write one of {', '.join(STAGES)}, or a list")
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ConfigError("stage", unknown[0], "unknown stage", f"write one of {', '.join(STAGES)}, or a list")
    if list(stages) != [stage for stage in STAGES if stage in stages]:
        order = [stage for stage in STAGES if stage in stages]
        raise ConfigError(
            "stage", list(stages), "stages run in a fixed order, each once", f"write stage={written(order)}"
        )
    if debug.half is not None and list(stages) != ["dmd"]:
        raise ConfigError(
            "stage", list(stages), f"debug.{debug.half}=true runs one half of stage dmd", "write stage=dmd"
        )
    if init is not None and list(stages) == ["grpo"]:
        raise ConfigError("init", init, "it is the student that stage dmd starts from", "write grpo.init instead")
    if init is not None and "ode" in stages:
        raise ConfigError("init", init, "stage ode would make another student", "write stage=dmd, or leave init out")
    if grpo_init is not None and {"dmd", "grpo"} <= set(stages):
        raise ConfigError(
            "grpo.init", grpo_init, "stage dmd would make another student", "write stage=grpo, or leave grpo.init out"
        )


def check_networks(student: StudentConfig, teacher_model: str | None, base: str | None, stages: Sequence[str]) -> None:
    """Check that teacher and student are of one world, and that weights of the student's size are given."""
    if teacher_model is None:
        return
    teacher = CONFIGS[teacher_model]
    for name in ("in_channels", "text_dim", "text_len"):
        ours, theirs = getattr(student.wan, name), getattr(teacher, name)
        if ours != theirs:
            raise ConfigError(
                "teacher_model",
                teacher_model,
                f"its {name} is {theirs}, that of student.model={student.model} is {ours}",
                "choose networks of one world",
            )
    if teacher != student.wan and base is None and list(stages) != ["teacher"]:
        raise ConfigError(
            "teacher_model",
            teacher_model,
            f"its weights do not fit student.model={student.model}, which starts from them without base",
            "set base to weights of the student's size",
        )


def check_frames(student: StudentConfig, rollout: RolloutConfig, window: WindowConfig, stages: Sequence[str]) -> None:
    """Check that rollouts and windows are whole blocks, fit into each other, and suit the law of windows."""
    block = student.block_frames
    check_blocks(
        block,
        {
            "rollout.frames": rollout.frames,
            "window.frames": window.frames,
            "window.burn_in_frames": window.burn_in_frames,
        },
    )
    if window.frames > rollout.frames:
        raise ConfigError(
            "window.frames",
            window.frames,
            f"longer than rollout.frames={rollout.frames}",
            f"write rollout.frames={window.frames} or more, or a shorter window",
        )
    if window.frames > student.horizon_frames:
        raise ConfigError(
            "window.frames",
            window.frames,
            f"longer than student.horizon_frames={student.horizon_frames}, all that the teacher can judge",
            f"write window.frames={student.horizon_frames} or less",
        )
    if student.sink_frames:
        raise ConfigError(
            "student.sink_frames", student.sink_frames, "training rolls without a sink", "write student.sink_frames=0"
        )
    horizons = [frames for _, frames in rollout.curriculum]
    if any(frames < window.frames or frames % block for frames in horizons):
        raise ConfigError(
            "rollout.curriculum",
            rollout.curriculum,
            f"a horizon is no multiple of student.block_frames={block} of at least window.frames={window.frames}",
            "change that horizon",
        )
    law = parse_law(window.law)
    if isinstance(law, Priority) and "grpo" in stages:
        raise ConfigError("window.law", window.law, "it is for stage dmd only", "run stage grpo with another law")
    for frames in {rollout.frames, *horizons}:
        starts = window_starts(frames, window.frames, block)
        law(starts, window.frames, student.horizon_frames, numpy.random.default_rng(0))


def check_blocks(block: int, frames_by_key: Mapping[str, int]) -> None:
    """Check that lengths, in latent frames by key, are whole blocks."""
    for name, frames in frames_by_key.items():
        if frames % block:
            raise ConfigError(
                name,
                frames,
                f"no multiple of student.block_frames={block}",
                nearest_multiples(name, frames, block),
            )


def check_learner(
    learner: LearnerConfig, cluster: ClusterConfig, batches: Mapping[str, int], heads: Mapping[str, int]
) -> None:
    """Check precision, offload and batches against the learner's ranks, and that sequence ranks divide those.

    `batches` are sizes by key, `heads` the heads of the networks by the key that names them.
    """
    divided = {f"cluster.learner_ranks={cluster.learner_ranks}": cluster.learner_ranks}
    divided |= {f"the {number} heads of {name}": number for name, number in heads.items()}
    for name, number in divided.items():
        if number % cluster.sequence_ranks:
            fix = f"write {divisors(math.gcd(*divided.values()))}"
            raise ConfigError("cluster.sequence_ranks", cluster.sequence_ranks, f"does not divide {name}", fix)
    for name, size in batches.items():
        check_batch(name, size, cluster.data_ranks, learner.micro_batch)
    if cluster.kind == "inline" and learner.dtype != "float32":
        raise ConfigError(
            "learner.dtype", learner.dtype, "it needs learner ranks", "write cluster=ray, or learner.dtype=float32"
        )
    if learner.teacher_offload and not cluster.rank_gpus:
        raise ConfigError(
            "learner.teacher_offload",
            True,
            "it needs learner ranks on GPUs",
            "write cluster.rank_gpus=1, or learner.teacher_offload=false",
        )


def divisors(number: int) -> str:
    """Write the divisors of `number` as a choice: "1, 2 or 4"."""
    *others, last = [str(divisor) for divisor in range(1, number + 1) if number % divisor == 0]
    return f"{', '.join(others)} or {last}" if others else last


def check_batch(name: str, size: int, ranks: int, micro_batch: int | None) -> None:
    """Check that a batch of `size` samples divides over data ranks and their forward passes; `name` is its key."""
    if size % ranks:
        raise ConfigError(
            name,
            size,
            f"does not divide over cluster.learner_ranks / cluster.sequence_ranks = {ranks}",
            f"divide it over {divisors(size)} ranks, or make it a multiple of {ranks}",
        )
    share = size // ranks
    if micro_batch is not None and share % micro_batch:
        raise ConfigError(
            "learner.micro_batch",
            micro_batch,
            f"does not divide {share}, the share of each of {ranks} data ranks of {name}={size}",
            f"write a divisor of {share}",
        )


def check_buffer(buffer: BufferConfig, dispatch: int, update: int) -> None:
    """Check that the buffer holds one dispatch and one update of stage dmd, both in windows."""
    needed = dispatch + update
    if buffer.windows < needed:
        raise ConfigError(
            "buffer.windows",
            buffer.windows,
            f"cannot hold one dispatch ({dispatch} windows) and one update ({update})",
            f"write buffer.windows={needed} or more",
        )
    if buffer.policy == "wait" and buffer.max_age * update < needed:
        raise ConfigError(
            "buffer.max_age",
            buffer.max_age,
            f"updates of {update} windows cannot hold one dispatch ({dispatch}) and one update with buffer.policy=wait",
            f"write buffer.max_age={math.ceil(needed / update)}, or another buffer.policy",
        )


def check_autoscale(autoscale: AutoscaleConfig, cluster: ClusterConfig, half: str | None) -> None:
    """Check the keys of autoscaling; `half` is the half of stage dmd that runs alone, if any."""
    if not autoscale.enabled:
        return
    if cluster.kind == "inline":
        raise ConfigError("autoscale.enabled", True, "inline has no rollout pool", "write cluster=ray")
    if cluster.weight_transport == "collective":
        raise ConfigError(
            "cluster.weight_transport",
            "collective",
            "it needs a pool of fixed size",
            "write cluster.weight_transport=object_store, or autoscale.enabled=false",
        )
    if half is not None:
        raise ConfigError(
            f"debug.{half}", True, "the pool is sized by learner and actors together", "write autoscale.enabled=false"
        )
    if not autoscale.minimum <= cluster.rollout_actors <= autoscale.maximum:
        raise ConfigError(
            "cluster.rollout_actors",
            cluster.rollout_actors,
            f"the size at the start is not between autoscale.minimum={autoscale.minimum} and "
            f"autoscale.maximum={autoscale.maximum}",
            "change one of the three",
        )


def check_evaluation(evaluation: TrainingEvaluationConfig, student: StudentConfig, held_out: int | None) -> None:
    """Check the videos of evaluations; `held_out` counts the prompts that stage grpo never trains on, None: enough."""
    unit, whole = student.block_frames, "student.block_frames"
    if not student.in_wan_world:  # its judge looks at whole teacher horizons
        unit, whole = student.horizon_frames, "student.horizon_frames"
    if evaluation.frames % unit:
        raise ConfigError(
            "evaluation.frames",
            evaluation.frames,
            f"no multiple of {whole}={unit}",
            nearest_multiples("evaluation.frames", evaluation.frames, unit),
        )
    if held_out is not None and evaluation.prompts > held_out:
        raise ConfigError(
            "evaluation.prompts",
            evaluation.prompts,
            f"stage grpo holds out sentinel.prompts={held_out}",
            f"write evaluation.prompts={held_out} or less, or raise sentinel.prompts",
        )
