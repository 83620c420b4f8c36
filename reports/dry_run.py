"""What a run would be: sizes, memory, operations and expected seconds, before anything is made or started."""

from collections.abc import Sequence
from pathlib import Path

from actors.prompts import read_prompts
from cluster.bootstrap.upload import upload_of
from cluster.config.devices import DEVICES
from cluster.config.run_config import Config
from cluster.planning import memory, placement, stage_costs
from cluster.planning.placement import Node, Role
from cluster.planning.stage_costs import Line, StageCost

_CHECKOUT = Path(__file__).resolve().parent.parent
_STEPS = {
    "parameters": ((1, ""),),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    "FLOP": ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")),
    "s": ((86400, "days"), (3600, "hours"), (60, "min"), (1, "s"), (1e-3, "ms")),
}


def dry_run_text(config: Config) -> str:
    """The whole report as text. Needs no weights, no GPU and no cluster: networks are looked at on the "meta" device.

    Raises ValueError for prompts that cannot be read, and for what the cluster could never hold or take.
    """
    placement.check(config)
    device, cluster = DEVICES[config.expected_device], config.cluster
    size = "" if device.memory_bytes is None else f", {device.memory_bytes / 1e9:.0f} GB"
    text = [
        f"dry run of stage {', '.join(config.stages)}: nothing is made, nothing is started",
        f"device_name={config.expected_device}: {device.source}, {device.peak_flops / 1e12:.4g} TFLOP/s{size}; "
        f"expected to sustain {device.sustained:.0%} of it",
    ]
    if config.prompts is not None:
        text.append(f"prompts={config.prompts}: {read_prompts(Path(config.prompts), config.prompt)}")
    text += _placement(config)
    if config.cluster.kind == "ray":
        text += _upload(config)
    text += _section("Networks", memory.networks(config))
    for stage in config.stages:
        lines = memory.rank_memory(config, stage)
        text += _section(f"Memory of one learner rank of {cluster.learner_ranks}, stage {stage}", lines, True)
        text += _room(memory.total(lines), device.memory_bytes)
    for stage in (stage for stage in config.stages if stage != "teacher"):
        lines = memory.actor_memory(config, stage)
        text += _section(f"Memory of one rollout process of {cluster.rollout_actors}, stage {stage}", lines, True)
        text += _room(memory.total(lines), device.memory_bytes)
    text += _section("Memory of the machines", memory.shared_memory(config))
    if kept := memory.disk(config):
        text += _section("Disk of the run folder", kept)
    one = [_timed(config, line) for line in stage_costs.operations(config)]
    text += _section("Operations", one)
    text += _stages(config, [stage_costs.stage_cost(config, stage) for stage in config.stages])
    return "\n".join(text)


def shown(value: float, unit: str) -> str:
    """A number with the unit that people read: 1.25e9 B are 1.25 GB."""
    if unit == "parameters":
        return f"{value:,.0f}"
    size, name = next((step for step in _STEPS[unit] if value >= step[0]), _STEPS[unit][-1])
    return f"{value / size:,.2f} {name}"


def _timed(config: Config, line: Line) -> Line:
    taken = shown(stage_costs.seconds(config, line.value, 1), "s")
    return Line(line.name, line.value, line.unit, f"{taken:>12}" + (f"  {line.note}" if line.note else ""))


def _section(title: str, lines: Sequence[Line], summed: bool = False) -> list[str]:
    text = ["", title]
    text += [f"  {line.name:<36}{shown(line.value, line.unit):>16}  {line.note}".rstrip() for line in lines]
    if summed:
        text.append(f"  {'together':<36}{shown(memory.total(lines), 'B'):>16}")
    return text


def _room(needed: float, there: float | None) -> list[str]:
    if there is None or needed <= there:
        return []
    return [f"  warning: more than the {there / 1e9:.0f} GB of the device"]


def _placement(config: Config) -> list[str]:
    """Who would run where."""
    text = ["", "Placement"]
    if config.cluster.kind == "inline":
        return [*text, "  everything in one process"]
    taken = placement.roles(config)
    text += [place(role) for role in taken]
    if config.autoscale.enabled:
        text.append(
            f"  the rollout pool begins with {config.cluster.rollout_actors} and sizes itself, between "
            f"{config.autoscale.minimum} and {config.autoscale.maximum}"
        )
    text.append("  coordinator     1 x 0 CPU, beside the entry point: keep that node on-demand")
    of = config.cluster.node_gpus
    nodes = [] if of is None else placement.nodes_for(taken, of)
    text += [f"  {_needs(group, nodes, of)}" for group in placement.groups(taken)]
    return text


def place(role: Role) -> str:
    """A line: how many processes, what each takes, where."""
    each = f"{role.cpus:g} CPU" + (f", {role.gpus:g} GPU" if role.gpus else "")
    where = f"on {placement.said(role.labels)}" if role.labels else "on any node"
    first = f", first on {placement.said(role.prefers)}" if role.prefers else ""
    return f"  {role.name:<12}{role.processes:>5} x {each}, {where}{first}"


def _needs(group: Sequence[Role], nodes: Sequence[Node], node_gpus: int | None) -> str:
    """CPUs and GPUs of roles of equal labels, and those of `nodes` that carry exactly these labels."""
    cpus, gpus = sum(role.processes * role.cpus for role in group), placement.devices(group)
    own = sum(node.labels == group[0].labels for node in nodes)
    said = f", nodes: {own} x {node_gpus} GPUs" if own else ""
    where = placement.said(group[0].labels) or "any node"
    return f"{where}: {cpus:g} CPUs, {gpus} GPUs{said}"


def _upload(config: Config) -> list[str]:
    """A line; one that Ray would refuse is an error where the keys speak of a cluster, and a warning elsewhere."""
    upload = upload_of(_CHECKOUT)
    if upload.too_large and config.cluster.elsewhere:
        raise ValueError(upload.too_large)
    text = ["", "Upload of ray job submit --working-dir ."]
    text.append(f"  {upload.files} files, {shown(upload.size, 'B')}, of {shown(upload.limit, 'B')} that Ray takes")
    return text + ([f"  warning: {upload.too_large}"] if upload.too_large else [])


def _stages(config: Config, stages: Sequence[StageCost]) -> list[str]:
    """What each stage takes, and who sets it."""
    cluster = config.cluster
    text = ["", f"Stages on {cluster.rollout_actors} rollout processes and {cluster.learner_ranks} learner ranks"]
    for cost in stages:
        made = stage_costs.seconds(config, cost.actors, cluster.rollout_actors)
        learnt = stage_costs.seconds(config, cost.learner, cluster.learner_ranks)
        slower = "the rollout processes" if made > learnt else "the learner"
        ahead = f"; the learner begins when {cost.ahead / cost.actors:.0%} are made" if cost.ahead else ""
        taken = stage_costs.stage_seconds(config, cost)
        text.append(f"  {cost.stage:<8}{shown(taken, 's'):>12}, set by {slower}{ahead}")
        text += [
            f"  {'':<8}{shown(taken, 's'):>12}  {who}: {shown(flops, 'FLOP')}"
            for who, flops, taken in (("rollouts", cost.actors, made), ("learner", cost.learner, learnt))
            if flops
        ]
        if made and learnt:
            text.append(f"  {'':<22}balanced at {cost.actors / cost.learner:.2f} rollout processes per learner rank")
    return text
