"""Which actors go when a pool shrinks: every choice there is, against the one that is taken."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.pool.scale_down import Place, departing

SPOT = {"market": "spot"}
NODES = [Place(f"node {i}", SPOT if i % 2 else {"market": "on-demand"}, ()) for i in range(5)]

pools = st.dictionaries(st.integers(0, 30), st.none() | st.sampled_from(NODES), max_size=9)


def in_use(places, gone):
    """Nodes that are still in use when the slots `gone` are: on-demand ones, and spot ones."""
    nodes = {place.node: place.labels == SPOT for slot, place in places.items() if place and slot not in gone}
    return sum(not spot for spot in nodes.values()), sum(nodes.values())


def waiting(places, slots):
    return sum(places[slot] is None for slot in slots)


@given(pools, st.integers(0, 9), st.sets(st.integers(0, 30)))
@settings(deadline=None)
def test_as_few_on_demand_nodes_as_possible_stay_in_use_and_of_those_choices_as_few_spot_nodes(places, count, working):
    count = min(count, len(places))
    gone = departing(places, count, SPOT, working.__contains__)
    assert len(gone) == len(set(gone)) == count and set(gone) <= places.keys()
    homeless = min(count, waiting(places, places))
    assert waiting(places, gone) == homeless, "who has no node goes before all others"
    others = [choice for choice in combinations(places, count) if waiting(places, choice) == homeless]
    assert in_use(places, gone) == min(in_use(places, choice) for choice in others)


@given(pools, st.integers(0, 9))
@settings(deadline=None)
def test_where_no_label_is_preferred_as_few_nodes_as_possible_stay_in_use(places, count):
    count = min(count, len(places))
    kept = [sum(in_use(places, gone)) for gone in combinations(places, count) if waiting(places, gone) == min(
        count, waiting(places, places))]  # fmt: skip
    assert sum(in_use(places, departing(places, count, {}, int))) == min(kept)


@given(pools, st.sets(st.integers(0, 30)))
@settings(deadline=None)
def test_going_one_by_one_leaves_no_more_nodes_of_a_kind_in_use_than_going_at_once(places, working):
    """A pool that shrinks in steps empties the node that it has begun with: it does not take one from each."""
    left = dict(places)
    while left:
        (gone,) = departing(left, 1, {}, working.__contains__)
        before = left.pop(gone)
        if before is not None:
            mates = [slot for slot, place in left.items() if place == before]
            assert not mates or left[departing(left, 1, {}, working.__contains__)[0]] == before


def test_where_it_costs_no_node_those_go_with_whom_the_least_is_at_stake():
    apart = {0: NODES[0], 1: NODES[2], 2: NODES[4]}
    assert departing(apart, 1, {}, at_stake={0: 2, 1: 0, 2: 1}.get) == [1]
    places = dict.fromkeys(range(4), NODES[0])
    assert departing(places, 2, {}, at_stake={0: 0, 1: 0, 2: 1, 3: 2}.get) == [1, 0]
    assert departing(places, 3, {}, at_stake={0: 0, 1: 0, 2: 1, 3: 2}.get) == [1, 0, 2]


def test_who_waits_for_a_node_longest_is_given_up_last():
    assert departing({0: NODES[0], 1: None, 2: None, 3: None}, 2, {}, at_stake=int) == [3, 2]
