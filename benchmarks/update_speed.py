"""Measure one update of a stage with random weights on one device: time, tokens, share of peak, memory.

python -m benchmarks.update_speed stage=ode model=tiny                        CPU, seconds
python -m benchmarks.update_speed stage=dmd model=wan_1_3b                    a GPU: 480x832, bfloat16, one window
More keys: compile=true|false, repeats=1 (timed), warm_up=true|false (one before them that is not timed), layers=2 (a
rehearsal), start=9 (first frame).

Four JSON lines, and in stage grpo without warm-up a fifth. An update of stage dmd is one of the critic and one of the
student, each on one window; of stage grpo a round on one group of two members, which an actor makes before with the
learner's weights. `STAGE_update_s`: its limit is the time that the operations counted by the plan take at the rate of
the largest matrix product, which is measured in the same run. `STAGE_update_memory`: the most that torch's allocator
held, its limit the bytes of the dry run; the first update of all has no moments of the optimiser yet. On a CPU it is
the process's peak, which has Python and its libraries in it.
"""

import statistics
import time
from dataclasses import dataclass

import torch

from benchmarks.ceilings import matmul_flops_per_s
from benchmarks.command import run
from benchmarks.line import print_line
from benchmarks.measured_network import MODELS, keep_layers
from benchmarks.random_learner import STAGES, configured, one_rank, updates_of
from benchmarks.rollout_fps import device_name, peak_memory, peak_reserved_gb
from cluster.config.run_config import Config
from cluster.planning import flops, rank_memory
from cluster.planning.run_shape import RunShape, run_shape_of
from models.keys import KeyGroup, key
from models.wan import flash_attention


@dataclass(kw_only=True)
class UpdateOptions(KeyGroup):
    """Describes a measurement of updates."""

    stage: str = key("dmd", "stage: " + ", ".join(STAGES), choices=STAGES)
    model: str = key("tiny", "network: " + ", ".join(MODELS), choices=MODELS)
    layers: int | None = key(None, "layers of the networks; none: all", ge=1)
    compile: bool = key(False, "compile the networks with torch.compile, block by block")
    repeats: int = key(1, "updates that are timed", ge=1)
    warm_up: bool = key(True, "make one update before that is not timed")
    start: int | None = key(
        None, "first latent frame of the windows, or fork of the group; none: behind a whole context and burn-in", ge=0
    )


def main(options: UpdateOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_layers(options.model, options.layers)
    config, stage = configured(options.stage, options.model, options.compile), options.stage
    with one_rank(device):
        update = updates_of(stage, config, device, options.start)
        if options.warm_up:
            update()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        measured = [timed_update(update, device) for _ in range(options.repeats)]
        held, reserved_gb = peak_memory(device), peak_reserved_gb(device)
    peak = matmul_flops_per_s(device, getattr(torch, config.learner.dtype), 3)
    work = run_shape_of(config)
    cost = flops.stage_cost(work, stage).learner / getattr(config, stage).steps
    timed_s, metrics = [seconds for seconds, _ in measured], measured[0][1]
    median_s, shown = statistics.median(timed_s), described(config, options, device)
    rates = [cost / s / 1e12 for s in timed_s]
    tokens = trained_tokens(work, stage)
    named = device_name(device), shown
    print_line(f"{stage}_update_s", timed_s, "s", *named, limit=cost / peak, metrics=metrics)
    print_line(f"{stage}_update_rate", rates, "TFLOP/s", *named, limit=peak / 1e12, tflop=round(cost / 1e12, 3))
    print_line(f"{stage}_update_tokens", [tokens / median_s], "trained tokens/s", *named, tokens=tokens)
    planned = sum(line.value for line in rank_memory.rank_memory(work, stage))
    print_line(f"{stage}_update_memory", [held / 1e9], "GB", *named, limit=planned / 1e9, peak_reserved_gb=reserved_gb)
    if (replay := metrics.get("policy/replay_error_max")) is not None:
        print_line("grpo_replay_error", [replay], "in the ratio", *named, limit=config.grpo.clip / 2)


def timed_update(update, device: torch.device) -> tuple[float, dict[str, float]]:
    """Return the seconds of one update until the device has done it, and its metrics."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    metrics = update()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, {name: round(value, 6) for name, value in metrics.items()}


def trained_tokens(work: RunShape, stage: str) -> int:
    """Count the tokens with gradient in one update, those of the critic's update included."""
    student = work.student
    frames = work.frames(stage)[0]
    windows = {"ode": work.ode.batch_size, "dmd": 2 * work.dmd.batch_size}.get(stage, 0)
    total = windows * frames
    if stage == "grpo":
        scored = work.grpo.groups * work.grpo.dmd_members * (1 + work.grpo.critic_updates)
        total = work.grpo.groups * work.group.members * frames + scored * work.window.frames
    return total * student.wan.tokens_per_frame(student.height, student.width)


def described(config: Config, options: UpdateOptions, device: torch.device) -> dict[str, object]:
    """Return what a line says about the networks and the libraries."""
    student, learner = config.student, config.learner
    return {
        "model": options.model,
        "layers": student.wan.num_layers,
        "latent": list(student.frame_shape),
        "start": options.start,
        "warm_up": options.warm_up,
        "members": config.group.members if options.stage == "grpo" else None,
        "dtype": learner.dtype,
        "checkpoint_activations": learner.checkpoint_activations,
        "keep_attention": learner.keep_attention,
        "compile": learner.compile,
        "attention": (device.type == "cuda" and flash_attention.selected_module()) or "torch",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    run(main, __doc__, UpdateOptions)
