"""Count the trials that can run together without deadlock: two half-placed trials would block each other.

Tune reserves what a trial declares in one piece, but Ray Train reserves the learner's ranks by itself, and it cannot do
so inside of what Tune has reserved. So what is declared is how many trials run: no more than the nodes hold whole.
"""

from collections.abc import Sequence
from dataclasses import replace

from cluster.bootstrap.cpus import usable_cpus
from cluster.bootstrap.ray_environment import cluster_address
from cluster.config.cluster_config import ClusterConfig
from cluster.planning import placement
from cluster.planning.placement import Node, Role

_ROUNDING = 1e-9


def at_once(trial: Sequence[Role], nodes: Sequence[Node]) -> int:
    """Count the trials whose processes all fit in any order, on any matching nodes that Ray chooses.

    Then no trial waits for another while it holds resources. At least one, because a single trial never deadlocks.
    The count is a lower bound: each process counts as the largest that may share its node, so unequally shared GPUs
    may stay partly free.
    """
    taking = [role for role in trial if role.cpus or role.gpus]
    places: dict[str, set[int]] = {}
    for role in taking:
        one = replace(role, processes=1)
        places[role.name] = {i for i, node in enumerate(nodes) if placement.placed([one], [node])[role.name] == 1}
    counts = []
    for role in taking:
        rivals = [other for other in taking if places[other.name] & places[role.name]]
        room = 0
        for i in places[role.name]:
            # Below this number of processes, whichever they are, the node always has a place for one of `role`.
            near = [other for other in taking if i in places[other.name]]
            bounds = [nodes[i].cpus / max(other.cpus for other in near)] if role.cpus else []
            if role.gpus:
                largest = max(near, key=lambda other: other.gpus)
                bounds.append(nodes[i].gpus * placement.processes_per_gpu(largest))
            room += min(int(bound + _ROUNDING) for bound in bounds)
        counts.append(room // sum(rival.processes for rival in rivals) if rivals else 0)
    return max(1, min(counts))


def expected_at_once(cluster: ClusterConfig, roles: Sequence[Role], most: int | None) -> str:
    """Describe how many trials of `roles` run at once, `most` at most, from the keys and this machine alone."""
    gpus = sum(placement.devices(group) for group in placement.groups(roles))
    if cluster.gpus is not None and gpus:
        count = max(1, cluster.gpus // gpus)
        return f"{count if most is None else min(most, count)} at once at most on cluster.gpus = {cluster.gpus}"
    if cluster_address(cluster) is not None or cluster.elsewhere or gpus:
        bound = "" if most is None else f", {most} at most"
        return f"as many at once as the cluster's nodes are sure to hold whole{bound}"
    cpus = usable_cpus()
    count = at_once(roles, [Node(cpus, 0, {})])
    return f"{count if most is None else min(most, count)} at once on the {cpus} CPUs of this machine"
