"""Write what to do where nodes have no room for the processes of a run."""

from collections.abc import Sequence

from cluster.planning import placement
from models.errors import written

_KIND = "ray.io/accelerator-type"
"""Label that Ray gives a node for its GPUs, such as H100."""
_KEYS = {
    "learner": ("cluster.learner_ranks", "cluster.rank_gpus"),
    "rollout": ("cluster.rollout_actors", "cluster.actor_gpus"),
    "reward": ("cluster.reward_actors", "cluster.reward_gpus"),
    "relay": ("cluster.relay_gpus", "cluster.actor_gpus"),
    "evaluation": ("evaluation.every to 0", "cluster.actor_gpus"),
}
"""Keys that lower a role's need, by role: fewer processes, or a smaller share of a GPU each."""


def cure(wanted: Sequence[placement.Role], nodes: Sequence[placement.Node]) -> str:
    """Write the fix for the first role without room; all may have room on nodes that other runs use."""
    counts = placement.placed(wanted, nodes)
    role = next((role for role in wanted if counts[role.name] < role.processes), None)
    if role is None:
        return "add nodes, wait until other runs release theirs, or raise it"
    matching = [node for node in nodes if placement.has_labels(node.labels, role.labels)]
    each = f"{role.cpus:g} CPU" + (f" and {role.gpus:g} GPU" if role.gpus else "")
    if role.labels and not matching:
        kinds = sorted({node.labels[_KIND] for node in nodes if node.gpus and _KIND in node.labels})
        if kinds and role.labels.get(_KIND, kinds[0]) not in kinds:
            others = {name: value for name, value in role.labels.items() if name != _KIND}
            keys = "cluster.learner_labels and cluster.rollout_labels"
            return f"write {keys} without {_KIND}, as {written(others)}: the GPUs here are {', '.join(kinds)}"
        started = ",".join(f"{name}={value}" for name, value in role.labels.items())
        lacking = placement.written_labels(role.labels)
        return f"start nodes with ray start --labels {started}; no node is labelled {lacking}"
    keys = " or ".join(_KEYS[role.name][: 2 if role.gpus else 1])
    return (
        f"add nodes, or lower {keys}; each {role.name} process needs {each}, and nodes that may serve "
        f"({len(matching)}) have room for {counts[role.name]} of {role.processes}"
    )
