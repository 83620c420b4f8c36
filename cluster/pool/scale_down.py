"""Choose the actors that leave a pool, so that whole nodes can be given back; does not import Ray."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.planning.placement import has_labels


@dataclass(frozen=True)
class Place:
    """Names the node and the GPUs of a process of the pool."""

    node: str
    labels: Mapping[str, str]
    """Labels of the node."""
    gpus: tuple[str, ...]
    """Names of its GPUs, unique in the cluster. A share of one is named like the whole."""


def departing(
    places: Mapping[int, Place | None], count: int, prefers: Mapping[str, str], at_stake: Callable[[int], int]
) -> list[int]:
    """Choose `count` of the slots of `places`; None stands for a process without a node that stays.

    Processes without a node go first, the newest before the others. Then as many whole nodes as possible are emptied,
    those without the labels `prefers` (they cost more) before the others. The remainder comes from the node with the
    fewest actors; ties are broken by the least work lost (`at_stake`).
    """
    homeless = sorted((slot for slot, place in places.items() if place is None), reverse=True)
    nodes: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for slot, place in places.items():
        if place is not None:
            nodes[has_labels(place.labels, prefers) and bool(prefers), place.node].append(slot)
    chosen, stay = homeless[:count], []
    for key in sorted(nodes, key=lambda key: (key[0], len(nodes[key]), sum(map(at_stake, nodes[key])), key[1])):
        if len(nodes[key]) <= count - len(chosen):
            chosen += nodes[key]
        else:
            stay.append(nodes[key])
    if stay:
        chosen += sorted(stay[0], key=lambda slot: (at_stake(slot), -slot))[: count - len(chosen)]
    return chosen
