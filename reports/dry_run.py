"""Describe a run before it starts: sizes, memory, operations and expected seconds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actors.prompts import read_prompts
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.devices import DEVICES
from cluster.config.run_config import Config
from cluster.planning import flops, memory, placement
from cluster.planning.flops import Line, StageCost
from cluster.planning.placement import Role
from cluster.planning.process_memory import card_memory, processes_of, total_bytes
from cluster.planning.run_shape import RunShape, run_shape_of
from cluster.planning.units import with_unit


def dry_run_text(config: Config, upload: Sequence[str] = (), refusals: Sequence[str] = ()) -> str:
    """Write the whole report, with the lines on the `upload`. Needs no weights, no GPU and no cluster.

    `refusals` are the reasons for which a start on this machine would be refused.

    Raises ConfigError for unreadable prompts, and for a run that the cluster can never hold.
    """
    placement.check(config)
    work = run_shape_of(config)
    device = DEVICES[config.expected_device]
    size = "" if device.memory_bytes is None else f", {device.memory_bytes / 1e9:.0f} GB"
    text = [
        f"dry run of stage {', '.join(config.stages)}: nothing is written or started",
        f"device_name={config.expected_device}: {device.source}, {device.peak_flops / 1e12:.4g} TFLOP/s{size}; "
        f"expected to sustain {device.sustained:.0%} of it",
    ]
    files = ("teacher", "base", "init", "vae", "text_encoder")
    unopened = [name for name in files if getattr(config, name) is not None]
    text.append(f"not opened, and not checked: {', '.join(unopened)}")
    if config.prompts is not None:
        text.append(f"prompts={config.prompts}: {read_prompts(Path(config.prompts), config.prompt)}")
    text += _placement(config.cluster, config.autoscale, placement.roles(config))
    text += upload
    text += _section("Networks", memory.networks(work))
    for stage in config.stages:
        for one in processes_of(work, stage):
            text += _section(f"Memory of {one.name}, {one.number} in all, stage {stage}", one.memory, True)
            text += _room(total_bytes(one.memory), device.memory_bytes)
        text += _cards(work, stage, device.memory_bytes)
    text += _section("Memory of the machines", memory.shared_memory(work))
    if kept := memory.disk(work):
        text += _section("Disk of the run folder", kept)
    timed = [
        replace(line, note=f"{with_unit(flops.seconds(work, line.value, 1), 's'):>12}  {line.note}".rstrip())
        for line in flops.operations(work)
    ]
    text += _section("Operations", timed)
    text += _stages(work, [flops.stage_cost(work, stage) for stage in config.stages])
    if refusals:
        text += ["", "A start on this machine would be refused", *(f"  {line}" for line in refusals)]
    return "\n".join(text)


def _section(title: str, lines: Sequence[Line], summed: bool = False) -> list[str]:
    text = ["", title]
    text += [f"  {line.name:<36}{with_unit(line.value, line.unit):>16}  {line.note}".rstrip() for line in lines]
    if summed:
        text.append(f"  {'together':<36}{with_unit(sum(line.value for line in lines), 'B'):>16}")
    return text


def _room(needed: float, capacity: float | None) -> list[str]:
    if capacity is None or needed <= capacity:
        return []
    return [f"  warning: more than the {capacity / 1e9:.0f} GB of the device"]


def _cards(work: RunShape, stage: str, capacity: float | None) -> list[str]:
    """List the processes that share a GPU, and warn of those that it cannot hold together."""
    together, alone = card_memory(work, stage), total_bytes(memory.actor_memory(work, stage))
    if capacity is None or stage == "teacher" or total_bytes(together) == alone:
        return []
    text = _section(f"Memory of one GPU's rollout and reward processes, stage {stage}", together, True)
    return text + _room(total_bytes(together), capacity)


def _placement(cluster: ClusterConfig, autoscale: AutoscaleConfig, taken: Sequence[Role]) -> list[str]:
    """List the processes by node."""
    text = ["", "Placement"]
    if cluster.kind == "inline":
        return [*text, "  everything in one process"]
    text += [place(role) for role in taken]
    if autoscale.enabled:
        text.append(
            f"  the rollout pool begins with {cluster.rollout_actors} and sizes itself, between "
            f"{autoscale.minimum} and {autoscale.maximum}"
        )
    text.append("  coordinator     1 x 0 CPU, beside the entry point: keep that node on-demand")
    of = cluster.node_gpus
    nodes = [] if of is None else placement.nodes_for(taken, of)
    for group in placement.groups(taken):
        cpus, gpus = sum(role.processes * role.cpus for role in group), placement.devices(group)
        own = sum(node.labels == group[0].labels for node in nodes)
        where = placement.written_labels(group[0].labels) or "any node"
        text.append(f"  {where}: {cpus:g} CPUs, {gpus} GPUs" + (f", nodes: {own} x {of} GPUs" if own else ""))
    return text


def place(role: Role) -> str:
    """Write one line about a role: number of processes, resources of each, nodes."""
    each = f"{role.cpus:g} CPU" + (f", {role.gpus:g} GPU" if role.gpus else "")
    where = f"on {placement.written_labels(role.labels)}" if role.labels else "on any node"
    first = f", first on {placement.written_labels(role.prefers)}" if role.prefers else ""
    return f"  {role.name:<12}{role.processes:>5} x {each}, {where}{first}"


def _stages(work: RunShape, stages: Sequence[StageCost]) -> list[str]:
    """Write the time of each stage, and the half that sets it."""
    cluster = work.cluster
    text = ["", f"Stages on {cluster.rollout_actors} rollout processes and {cluster.learner_ranks} learner ranks"]
    for cost in stages:
        actors_s = flops.seconds(work, cost.actors, cluster.rollout_actors)
        learner_s = flops.seconds(work, cost.learner, cluster.learner_ranks)
        slower = "the rollout processes" if actors_s > learner_s else "the learner"
        ahead = f"; the learner begins when {cost.ahead / cost.actors:.0%} are made" if cost.ahead else ""
        taken = flops.stage_seconds(work, cost)
        text.append(f"  {cost.stage:<8}{with_unit(taken, 's'):>12}, set by {slower}{ahead}")
        text += [
            f"  {'':<8}{with_unit(taken, 's'):>12}  {half}: {with_unit(total, 'FLOP')}"
            for half, total, taken in (("rollouts", cost.actors, actors_s), ("learner", cost.learner, learner_s))
            if total
        ]
        if actors_s and learner_s:
            text.append(f"  {'':<22}balanced at {cost.actors / cost.learner:.2f} rollout processes per learner rank")
    return text
