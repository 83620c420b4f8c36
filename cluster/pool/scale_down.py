"""Which actors a pool lets go of: those whose nodes can then be given back whole. Knows no Ray."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.planning.placement import carries


@dataclass(frozen=True)
class Place:
    """Where a process of the pool is."""

    node: str
    labels: Mapping[str, str]
    """The node's."""
    gpus: tuple[str, ...]
    """Those it computes on, named like no other of the cluster. A share of one is named like the whole."""


def departing(
    places: Mapping[int, Place | None], count: int, prefers: Mapping[str, str], at_stake: Callable[[int], int]
) -> list[int]:
    """`count` of the slots of `places`; None stands for a process without a node that stays.

    Those without a node go first, the newest before the others. Then as many nodes as possible are left by all, of
    those that do not carry the labels `prefers` (they cost more), and with what remains of the others. What no node is
    small enough for goes from the node that is nearest to being free. Where that costs no node, those stay with whom
    more is `at_stake`.
    """
    homeless = sorted((slot for slot, place in places.items() if place is None), reverse=True)
    nodes: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for slot, place in places.items():
        if place is not None:
            nodes[carries(place.labels, prefers) and bool(prefers), place.node].append(slot)
    chosen, stay = homeless[:count], []
    for key in sorted(nodes, key=lambda key: (key[0], len(nodes[key]), sum(map(at_stake, nodes[key])), key[1])):
        if len(nodes[key]) <= count - len(chosen):
            chosen += nodes[key]
        else:
            stay.append(nodes[key])
    if stay:
        chosen += sorted(stay[0], key=lambda slot: (at_stake(slot), -slot))[: count - len(chosen)]
    return chosen
