"""Write the output of plan.py: the answer, its table and assumptions, memory, traffic, and the worth of a budget."""

from collections.abc import Sequence
from pathlib import Path

from cluster.config.devices import DEVICES
from cluster.config.plan_config import PlanConfig
from cluster.planning import flops, memory
from cluster.planning.costs import Cost
from cluster.planning.flops import seconds, stage_cost
from cluster.planning.memory_check import actor_bytes, rank_bytes
from cluster.planning.pool_sizes import Size, cheapest, largest_pool
from cluster.planning.run_shape import RunShape
from cluster.planning.units import with_unit
from models.atomic_files import write_atomic
from models.errors import ConfigError
from models.worlds.tiny_world import FPS

_WAN_FPS, _WAN_STRIDE = 16, 4
"""Video frames per second, and per latent frame behind the first."""
_PAPER_GPU_DAYS = 48
_LEARNER, _ACTORS, _COST, _BEST = "#0b62b8", "#c2410c", "#1f7a4d", "#5c636e"
_WHAT = {
    "block_s": "one block of {batch} video(s), by an actor",
    "cut_s": "one window from the middle of a video",
    "student_window_s": "one window of the student's update",
    "critic_window_s": "one window of a critic's update",
    "publish_s": "handing over new weights",
}


def plan_text(work: RunShape, plan: PlanConfig, costs: dict[str, Cost], sizes: Sequence[Size]) -> str:
    """Write the whole plan as text."""
    best = cheapest(sizes)
    text = [answer(work, plan, best), "", "Costs, on one GPU"]
    for name, cost in costs.items():
        text.append(
            f"  {_WHAT[name].format(batch=work.rollout.batch):<42}{with_unit(cost.seconds, 's'):>12}  {cost.source}"
        )
    text += [
        "",
        f"Rollout GPUs beside {best.learner_gpus} learner GPUs (* takes the fewest GPU-days)",
        *table(plan, sizes),
    ]
    device = DEVICES[work.expected_device]
    waiting = {line.name: line for line in memory.shared_memory(work)}["the buffer"]
    room = "" if device.memory_bytes is None else f"of {device.memory_bytes / 1e9:.0f} GB, fits"
    text += [
        "",
        "Memory",
        f"  {'one learner rank':<42}{with_unit(rank_bytes(work, 'dmd'), 'B'):>12}  {room}".rstrip(),
        f"  {'the rollout processes of one GPU':<42}{with_unit(actor_bytes(work, 'dmd'), 'B'):>12}  {room}".rstrip(),
        f"  {'windows that wait, on the head':<42}{with_unit(waiting.value, 'B'):>12}  {waiting.note}",
    ]
    text += ["", f"Bytes per second, with {best.rollout_gpus} rollout GPUs", *_wires(work, costs, best)]
    text += ["", *budget(work, plan, best), "", "Assumed", *(f"  - {line}" for line in assumptions(work, costs))]
    report = "\n".join(text)
    return report.replace("GPU", "CPU") if work.expected_device == "cpu" else report


def answer(work: RunShape, plan: PlanConfig, best: Size) -> str:
    """Write the number of rollout GPUs, in one sentence."""
    among = f" (of plan.rollout_gpus={plan.rollout_gpus})" if plan.rollout_gpus else ""
    if best.rollout_gpus == largest_pool(work.cluster, work.stages):
        among += f" (all that cluster.gpus={work.cluster.gpus} leaves)"
    ratio = best.rollout_gpus / best.learner_gpus
    learners, rollouts = (f"{n} GPU{'s' * (n != 1)}" for n in (best.learner_gpus, best.rollout_gpus))
    return (
        f"Horizons of {video_s(work):.0f} s ({work.rollout.frames} latent frames) on {learners} "
        f"for the learner want {rollouts} for rollouts{among}, {ratio:.2f} for each: the learner waits "
        f"{best.rates.learner_idle_share:.1%} of its time, and the {best.steps} updates of stage dmd take "
        f"{with_unit(best.seconds_of(best.steps), 's')}, {best.gpu_days:.2f} GPU-days, at a price of "
        f"{price(plan, best):,.2f} in the currency of plan.gpu_hour_price={plan.gpu_hour_price:g}."
    )


def video_s(work: RunShape) -> float:
    """Return the seconds of video of a rollout."""
    frames = work.rollout.frames
    return (_WAN_STRIDE * (frames - 1) + 1) / _WAN_FPS if work.student.in_wan_world else frames / FPS


def price(plan: PlanConfig, size: Size) -> float:
    """Price the whole stage."""
    return 24 * size.gpu_days * plan.gpu_hour_price


def table(plan: PlanConfig, sizes: Sequence[Size]) -> list[str]:
    """Write one line for each size."""
    heads = ("rollout GPUs", "actors", "ratio", "learner waits", "actors wait", "windows/s", "updates/h", "mean age",
             "first window", "stage", "GPU-days", "price")  # fmt: skip
    rows = [heads]
    for size in sizes:
        rows.append(
            (
                f"{'* ' if size is cheapest(sizes) else ''}{size.rollout_gpus}",
                f"{size.seen.actors}",
                f"{size.rollout_gpus / size.learner_gpus:.2f}",
                f"{size.rates.learner_idle_share:.1%}",
                f"{size.rates.rollout_idle_share:.1%}",
                f"{size.rates.windows_per_s:.3g}",
                f"{3600 * size.rates.updates_per_s:.4g}",
                f"{size.rates.mean_age:.1f}",
                with_unit(size.seen.first_window_s, "s"),
                with_unit(size.seconds_of(size.steps), "s"),
                f"{size.gpu_days:.2f}",
                f"{price(plan, size):,.2f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _wires(work: RunShape, costs: dict[str, Cost], best: Size) -> list[str]:
    """List the traffic at full load. Weights count once for every actor, though actors of a node share them."""
    held = {line.name: line.value for line in memory.shared_memory(work)}
    blocks_per_s = best.seen.actors * (1 - best.rates.rollout_idle_share) / costs["block_s"].seconds
    block = work.rollout.batch * memory.latent_bytes(work.student, work.student.block_frames, 4)
    pulls_per_s = min(best.rates.updates_per_s * best.seen.actors, blocks_per_s)
    lines = {
        "weights, to all actors": pulls_per_s * held["one version of the weights"],
        "windows, from actors to the coordinator": best.rates.windows_per_s * held["one window"],
        "windows, from there to the learner": best.rates.windows_per_s * held["one window"],
        "blocks, for videos that lose their actor": blocks_per_s * block,
    }
    return [f"  {name:<42}{with_unit(value, 'B'):>12}/s" for name, value in lines.items()]


def budget(work: RunShape, plan: PlanConfig, best: Size) -> list[str]:
    """Write the updates that `plan.budget_gpu_days` buy in stage dmd, and those that stage ode leaves."""
    days, critics = plan.budget_gpu_days, work.dmd.critic_updates
    bought, whose = (
        best.updates_in(days),
        ", the paper's," if days == _PAPER_GPU_DAYS and work.expected_device != "cpu" else "",
    )
    line = (
        f"{days:g} GPU-days{whose} buy {bought:,} updates of the student and "
        f"{critics * bought:,} of the critic, from {work.dmd.batch_size * (1 + critics) * bought:,} windows, on "
        f"{best.learner_gpus} + {best.rollout_gpus} GPUs"
    )
    if "ode" not in work.stages:
        return [line]
    ode = stage_cost(work, "ode")
    spent = seconds(work, ode.actors + ode.learner, 1) / 86400
    left = best.updates_in(max(0.0, days - spent))
    return [line, f"  stage ode before it would take {spent:.2f} of them by the table, and leave {left:,} updates"]


def assumptions(work: RunShape, costs: dict[str, Cost]) -> list[str]:
    """List the assumptions of the plan, one line each."""
    student, rollout, dmd, device = work.student, work.rollout, work.dmd, DEVICES[work.expected_device]
    gradient = flops.GRADIENT_PASSES[work.learner.checkpoint_activations]
    from_table = {name for name, cost in costs.items() if cost.source.startswith("table")}
    lines = []
    if from_table:
        lines.append(
            f"{work.expected_device} sustains {device.sustained:.0%} of its peak, {device.source}: an assumption"
        )
    if "block_s" in from_table:
        lines.append(
            f"a block is {len(student.timesteps)} denoising steps and a read into the cache, "
            f"{len(student.timesteps) + 1} passes that see {student.attention_frames} frames; no guidance is needed"
        )
    if "student_window_s" in from_table:
        lines.append(
            f"a student window is its x0 with gradient (a pass with gradient counts {gradient}), two passes of the "
            "teacher for guidance, and one of the critic"
        )
    if "critic_window_s" in from_table:
        lines.append(
            f"a critic window is the student's x0 without gradient and a pass of the critic with it ({gradient})"
        )
    lines += [
        f"{dmd.critic_updates} critic updates for each of the student, {dmd.batch_size} windows in each: "
        f"{dmd.batch_size * (1 + dmd.critic_updates)} windows an update, none used twice",
        f"{rollout.windows} windows from each rollout; an actor stops behind the last of a dispatch, which makes "
        f"{work.made_share:.0%} of {rollout.frames} frames (window.law={work.window.law})",
        f"at most {work.buffer.windows} windows dispatched or waiting (buffer.windows), buffer.policy="
        f"{work.buffer.policy}; they leave in the order drawn at dispatch",
        "a GPU that waits is paid in full; one kind of GPU for both halves, one learner rank on each",
    ]
    if work.student.in_wan_world:
        lines.append(
            "a window from the middle of a video costs its actor an image latent: context decoded, one encoded"
        )
    if (largest := largest_pool(work.cluster, work.stages)) is not None:
        lines.append(f"cluster.gpus={work.cluster.gpus} has room for {largest} rollout GPUs beside the learner")
    lines.append("no losses, starts, checkpoints or evaluation in that time; transport takes no time")
    return lines


def draw_plan(sizes: Sequence[Size], path: Path) -> None:
    """Write a PNG. Raises ConfigError where it cannot be written."""
    from io import BytesIO

    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    best, gpus = cheapest(sizes), [size.rollout_gpus for size in sizes]
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    waits, cost = figure.subplots(2, 1, sharex=True)
    waits.plot(gpus, [size.rates.learner_idle_share for size in sizes], "-o", color=_LEARNER, label="learner waits")
    waits.plot(gpus, [size.rates.rollout_idle_share for size in sizes], "--s", color=_ACTORS, label="actors wait")
    waits.set(ylabel="share of their time", ylim=(-0.02, 1))
    waits.yaxis.set_major_formatter(PercentFormatter(1.0))
    cost.plot(gpus, [size.gpu_days for size in sizes], "-o", color=_COST)
    cost.set(xlabel="rollout GPUs", ylabel=f"GPU-days of {best.steps} updates", ylim=(0, None))
    for axes in (waits, cost):
        axes.axvline(best.rollout_gpus, color=_BEST, linewidth=1, linestyle=":", zorder=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    waits.legend(frameon=False)
    cost.annotate(
        f"{best.rollout_gpus} rollout GPUs: {best.gpu_days:.2f} GPU-days",
        (best.rollout_gpus, best.gpu_days),
        xytext=(8, -16),
        textcoords="offset points",
        color=_BEST,
    )
    waits.set_title(f"Rollout GPUs beside {best.learner_gpus} learner GPUs")
    png = BytesIO()
    figure.savefig(png, format="png", dpi=150)
    try:
        write_atomic(path, png.getvalue())
    except OSError as error:
        raise ConfigError("plan.plot", path, f"cannot be written ({error.strerror})", "write another file") from error
