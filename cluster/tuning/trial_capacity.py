"""The number of trials that run together without a deadlock: two that held half each would wait for ever.

Tune reserves what a trial declares in one piece, but Ray Train reserves the learner's ranks by itself, and it cannot do
so inside of what Tune has reserved. So what is declared is how many trials run: no more than the nodes hold whole.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from cluster.bootstrap.cpus import usable_cpus
from cluster.bootstrap.ray_environment import cluster_address
from cluster.config.scan_config import Scan
from cluster.planning import placement
from cluster.planning.placement import Node, Role

_ROUNDING = 1e-9


def trial_roles(scan: Scan) -> list[Role]:
    """List the processes of one trial, its rollout pool at its largest; its driver takes no room."""
    if scan.cluster.kind == "inline":
        return [Role("trial", 1, scan.scan.cpus, 0.0)]
    return placement.roles(scan)


def at_once(trial: Sequence[Role], nodes: Sequence[Node]) -> int:
    """Count trials whose processes all find a place in any order and on any fitting nodes that Ray chooses.

    So no trial waits for another's end while it holds something; of one that has ended, what is still there only
    leaves. At least one: alone it waits for nobody. A bound by counting: every process is taken for as large as the
    largest that may share its node, so of GPUs that are shared unequally some may stay free.
    """
    taking = [role for role in trial if role.cpus or role.gpus]
    places = {role.name: {i for i, node in enumerate(nodes) if _may_hold(node, role)} for role in taking}
    found = []
    for role in taking:
        rivals = [other for other in taking if places[other.name] & places[role.name]]
        room = 0
        for i in places[role.name]:
            near = [other for other in taking if i in places[other.name]]
            room += _surely(nodes[i], role, near)
        found.append(room // sum(rival.processes for rival in rivals) if rivals else 0)
    return max(1, min(found))


def expected_at_once(scan: Scan) -> str:
    """Describe how many trials run at once, from the keys and this machine alone.

    Raises ValueError for a trial that the cluster could never hold.
    """
    placement.check(scan)
    roles, cluster = trial_roles(scan), scan.cluster
    most = math.inf if scan.scan.at_once is None else scan.scan.at_once
    gpus = sum(placement.devices(group) for group in placement.groups(roles))
    if cluster.gpus is not None and gpus:
        return f"{min(most, max(1, cluster.gpus // gpus))} at once at most on cluster.gpus = {cluster.gpus}"
    if cluster_address(scan.cluster) is not None or cluster.elsewhere or gpus:
        bound = "" if scan.scan.at_once is None else f", {most} at most"
        return f"as many at once as the cluster's nodes are sure to hold whole{bound}"
    here = usable_cpus()
    return f"{min(most, at_once(roles, [Node(here, 0, {})]))} at once on the {here} CPUs of this machine"


def _may_hold(node: Node, role: Role) -> bool:
    """Tell whether `node` can hold a process of `role`."""
    return placement.placed([replace(role, processes=1)], [node])[role.name] == 1


def _surely(node: Node, role: Role, near: Sequence[Role]) -> int:
    """Bound the processes of the roles `near` on `node` below which it always has a place for one of `role`."""
    found = []
    if role.cpus:
        found.append(int(node.cpus / max(other.cpus for other in near) + _ROUNDING))
    if role.gpus:
        largest = max(near, key=lambda other: other.gpus)
        found.append(int(node.gpus * placement.processes_per_gpu(largest) + _ROUNDING))
    return min(found)
