"""Place the processes of a run on nodes, and check that they fit. Arithmetic without Ray."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from models.errors import ConfigError

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Role:
    """Describes processes of one kind; `cpus` and `gpus` are per process."""

    name: str
    processes: int
    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)
    prefers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """Describes a registered node, with all its CPUs and GPUs, free or in use."""

    cpus: float
    gpus: float
    labels: Mapping[str, str]


def learner(cluster: ClusterConfig) -> Role:
    """Describe the ranks that train together."""
    return Role("learner", cluster.learner_ranks, 1, cluster.rank_gpus, cluster.learner_labels)


def rollout(cluster: ClusterConfig) -> Role:
    """Describe the rollout pool at its start."""
    return Role(
        "rollout", cluster.rollout_actors, 1, cluster.actor_gpus, cluster.rollout_labels, cluster.rollout_prefers
    )


def reward(cluster: ClusterConfig) -> Role:
    """Describe the processes that score groups, on the rollout nodes because they may be lost as actors may."""
    return Role(
        "reward", cluster.reward_actors, 1, cluster.reward_gpus, cluster.rollout_labels, cluster.rollout_prefers
    )


def relay(cluster: ClusterConfig) -> Role:
    """Describe the sender of weights with cluster.weight_transport=collective, on a learner node."""
    gpus = cluster.relay_gpus if cluster.actor_gpus else 0.0
    return Role("relay", int(cluster.weight_transport == "collective"), 0, gpus, cluster.learner_labels)


def evaluation(cluster: ClusterConfig) -> Role:
    """Describe the process that evaluates students during training: a rollout process of its own."""
    return replace(rollout(cluster), name="evaluation", processes=1)


def roles(config: Config) -> list[Role]:
    """List all processes that take CPUs or GPUs, the rollout pool at its largest. The coordinator takes none."""
    cluster, autoscale = config.cluster, config.autoscale
    actors = autoscale.maximum if autoscale.enabled else cluster.rollout_actors
    pool = replace(rollout(cluster), processes=0 if config.debug.learner_only else actors)
    scorers = [reward(cluster)] if "grpo" in config.stages else []
    judges = [evaluation(cluster)] if config.evaluated_stages else []
    return [role for role in (learner(cluster), pool, *scorers, *judges, relay(cluster)) if role.processes]


def at_start(config: Config) -> list[Role]:
    """List the processes without which a run cannot begin; the rollout pool with cluster.first_actors.

    Of an autoscaled pool that is its minimum: nodes for more start when the pool requests them. Then training
    does not wait for the evaluation process either.
    """
    first = config.cluster.first_actors
    if first is None and config.autoscale.enabled:
        first = config.autoscale.minimum
    if first is None:
        return roles(config)
    pool = ("rollout", "reward")
    return [
        replace(role, processes=min(role.processes, first)) if role.name in pool else role
        for role in roles(config)
        if role.name != "evaluation"
    ]


def processes_per_gpu(role: Role) -> float:
    """Count the processes per GPU, a whole number where several share one; 1 without GPUs."""
    share = role.gpus or 1.0
    return whole_shares(1.0, share) if share <= 1 else 1 / share


def whole_shares(part: float, share: float) -> int:
    """Count the processes that each take a `share` of a GPU, in a `part` of one."""
    return int(part / share + _ROUNDING)


def options(role: Role) -> dict[str, Any]:
    """Return Ray's options for one process. With `prefers`, other nodes serve while the preferred ones are full."""
    ray_options: dict[str, Any] = {"num_cpus": role.cpus}
    if role.gpus:
        ray_options["num_gpus"] = role.gpus
    if role.labels or role.prefers:
        ray_options["label_selector"] = {**role.labels, **role.prefers}
    if role.prefers:
        ray_options["fallback_strategy"] = [{"label_selector": dict(role.labels)}]
    return ray_options


def bundles(wanted: Iterable[Role]) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """List resources and node labels of each process that takes CPUs or GPUs."""
    each = [role for role in wanted if role.cpus or role.gpus for _ in range(role.processes)]
    resources = [{unit: amount for unit, amount in (("CPU", role.cpus), ("GPU", role.gpus)) if amount} for role in each]
    return resources, [dict(role.labels) for role in each]


def placed(wanted: Sequence[Role], nodes: Sequence[Node]) -> dict[str, int]:
    """Count the processes of each role that the nodes have room for.

    Greedy, as Ray's own scheduler: the roles with most labels first, among those the largest share of a GPU first,
    each on the fullest node. Exact where labels separate the roles; otherwise it may miss room that a search would
    find, but never counts too much.
    """
    free = [_Free(node) for node in nodes]
    counts = {}
    for role in sorted(wanted, key=lambda role: (len(role.labels), role.gpus), reverse=True):
        fitting = [node for node in free if has_labels(node.labels, role.labels)]
        fitting.sort(key=lambda node: (not has_labels(node.labels, role.prefers), node.cpus))
        node = counts[role.name] = 0  # a node that is full for one process of a role is full for all
        while counts[role.name] < role.processes and node < len(fitting):
            if fitting[node].reserve(role):
                counts[role.name] += 1
            else:
                node += 1
    return counts


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether `labels` of a node include all `wanted` ones."""
    return all(labels.get(name) == value for name, value in wanted.items())


def shortage(wanted: Sequence[Role], nodes: Sequence[Node], in_use: float = 0.0) -> str | None:
    """Describe in one line what a cluster lacks, or return None if everything has room.

    `in_use` counts GPUs (CPUs, where no role takes a GPU) that other runs use.
    """
    counts = placed(wanted, nodes)
    short = [role for role in wanted if counts[role.name] < role.processes]
    if not short and not in_use:
        return None
    unit = "GPU" if any(role.gpus for role in wanted) else "CPU"
    registered = sum(node.gpus if unit == "GPU" else node.cpus for node in nodes)
    of_all = sum(role.cpus * role.processes for role in wanted)
    needed = sum(devices(group) for group in groups(wanted)) if unit == "GPU" else of_all
    waits = [
        f"{written_labels(group[0].labels) or 'any node'} ("
        + ", ".join(f"{counts[role.name]} of {role.processes} {role.name}" for role in group)
        + ")"
        for group in groups(short)
    ]
    if not short:
        return f"{registered:g} {unit}s registered, {in_use:g} of them in use by others, waiting for {needed:g}"
    taken = f", {in_use:g} of them in use by others" if in_use else ""
    return f"{registered:g} of {needed:g} {unit}s registered{taken}, waiting for {', '.join(waits)}"


def groups(wanted: Iterable[Role]) -> list[list[Role]]:
    """Group the roles with equal labels, which share nodes."""
    by_labels: dict[tuple, list[Role]] = {}
    for role in wanted:
        by_labels.setdefault(tuple(sorted(role.labels.items())), []).append(role)
    return list(by_labels.values())


def devices(group: Sequence[Role]) -> int:
    """Count the GPUs of roles with equal labels, packing shares of a GPU together."""
    free = list[float]()
    for role in sorted((role for role in group if 0 < role.gpus <= 1), key=lambda role: role.gpus, reverse=True):
        free.sort()  # each share goes to the fullest device with room
        device = 0
        for _ in range(role.processes):
            while device < len(free) and free[device] < role.gpus - _ROUNDING:
                device += 1
            if device == len(free):
                free.append(1.0)
            free[device] -= role.gpus
    return len(free) + sum(math.ceil(role.gpus - _ROUNDING) * role.processes for role in group if role.gpus > 1)


def nodes_for(wanted: Iterable[Role], node_gpus: int) -> list[Node]:
    """Find the fewest nodes of `node_gpus` GPUs with room for all roles that take GPUs, as `placed` fills them.

    Each node has the labels of one group and serves every role whose labels are among them. CPUs are ignored. No
    process needs more than `node_gpus` (ClusterConfig checks it).
    """
    nodes: list[Node] = []
    looked_at: list[Role] = []
    for group in sorted(groups(role for role in wanted if role.gpus), key=lambda group: -len(group[0].labels)):
        looked_at += group
        one = Node(math.inf, node_gpus, group[0].labels)
        gpus = sum(role.gpus * role.processes for role in looked_at)
        least = max(0, math.ceil(gpus / node_gpus - _ROUNDING) - len(nodes))
        nodes += [one] * _fewest(looked_at, nodes, one, least)
    return nodes


def _fewest(wanted: Sequence[Role], nodes: Sequence[Node], one: Node, least: int) -> int:
    """Count the nodes like `one` that must join `nodes` to give `wanted` room: `least` or more."""

    def suffice(number: int) -> bool:
        return shortage(wanted, [*nodes, *[one] * number]) is None

    most = next(number for doubled in count() if suffice(number := least + 2**doubled - 1))
    return bisect_left(range(most), True, lo=least, key=suffice)


def excess(cluster: ClusterConfig, wanted: Sequence[Role]) -> str | None:
    """Explain why the cluster, as configured, can never hold `wanted`; return None if it can."""
    of = cluster.node_gpus
    if cluster.gpus is None:
        return None
    needed, in_nodes = sum(devices(group) for group in groups(wanted)), ""
    if of is not None:
        nodes = len(nodes_for(wanted, of))
        needed, in_nodes = nodes * of, f" ({nodes} nodes of {of})"
    if needed <= cluster.gpus:
        return None
    counts = ", ".join(f"{role.processes} {role.name}" for role in wanted)
    return f"{counts} processes need {needed}{in_nodes}"


def check(config: Config) -> None:
    """Check that the cluster, as configured, can hold the run. Raises ConfigError."""
    if (why := excess(config.cluster, roles(config))) is not None:
        pool = "autoscale.maximum" if config.autoscale.enabled else "cluster.rollout_actors"
        cure = f"lower {pool} or cluster.learner_ranks, raise cluster.gpus, or choose a larger cluster="
        raise ConfigError("cluster.gpus", config.cluster.gpus, why, cure)


def written_labels(labels: Mapping[str, str]) -> str:
    """Write labels as name=value, separated by commas."""
    return ", ".join(f"{name}={value}" for name, value in labels.items())


class _Free:
    """Tracks the free CPUs and GPUs of a node. A share of a GPU comes from one GPU, as with Ray."""

    def __init__(self, node: Node):
        self.labels, self.cpus, self.gpus = node.labels, node.cpus, [1.0] * int(node.gpus)

    def reserve(self, role: Role) -> bool:
        """Reserve room for one process of `role`; return False where there is none."""
        if self.cpus < role.cpus - _ROUNDING:
            return False
        if 0 < role.gpus <= 1:
            fitting = [i for i, share in enumerate(self.gpus) if share >= role.gpus - _ROUNDING]
            if not fitting:
                return False
            self.gpus[min(fitting, key=lambda i: self.gpus[i])] -= role.gpus
        elif role.gpus:
            unused = [i for i, share in enumerate(self.gpus) if share >= 1 - _ROUNDING][: int(role.gpus)]
            if len(unused) < role.gpus:
                return False
            for i in unused:
                self.gpus[i] = 0.0
        self.cpus -= role.cpus
        return True
