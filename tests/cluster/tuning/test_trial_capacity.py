"""How many trials run together: against placing their processes one by one, in the most awkward order and places."""

import itertools
import random
import re

import pytest
import yaml
from hypothesis import assume, given, note
from hypothesis import strategies as st

from cluster.bootstrap.cpus import usable_cpus
from cluster.config.cluster_config import ClusterConfig
from cluster.config.scan_config import Scan, ScanConfig
from cluster.planning import placement
from cluster.planning.placement import Node, Role, has_labels, placed
from cluster.tuning.trial_capacity import at_once
from learner.stage_config import DmdConfig
from models.errors import ConfigError
from reports.scan_report import scan_overview
from settings.compose import ROOT

A, B = {"role": "learner"}, {"role": "rollout"}
LABELS = st.sampled_from([{}, A, B])
SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0])


@st.composite
def roles(draw):
    made = []
    for name in draw(st.sampled_from([("learner",), ("learner", "rollout"), ("learner", "rollout", "relay")])):
        cpus, gpus = draw(st.sampled_from([0.0, 1.0, 1.0, 2.0])), draw(SHARES)
        assume(cpus or gpus)
        made.append(Role(name, draw(st.integers(1, 3)), cpus, gpus, draw(LABELS)))
    return made


def nodes():
    return st.lists(st.builds(Node, st.integers(0, 12), st.integers(0, 4), LABELS), min_size=1, max_size=4)


class Machine:
    """A node with its GPUs one by one, as Ray accounts for them; who is put where is the caller's choice."""

    def __init__(self, node):
        self.labels, self.cpus, self.gpus = node.labels, node.cpus, [1.0] * int(node.gpus)

    def ways(self, role):
        """The sets of GPUs that a process of `role` could get; one empty set for a process without."""
        if not has_labels(self.labels, role.labels) or self.cpus < role.cpus:
            return []
        if role.gpus <= 1:
            return [[i] for i, left in enumerate(self.gpus) if left >= role.gpus - 1e-9] if role.gpus else [[]]
        whole = [i for i, left in enumerate(self.gpus) if left == 1.0]
        return list(map(list, itertools.combinations(whole, int(role.gpus))))

    def take(self, role, gpus):
        self.cpus -= role.cpus
        for i in gpus:
            self.gpus[i] -= min(role.gpus, 1.0)


def stuck(trial, count, there, chance):
    """Whether `count` trials, placed in an order and at places that `chance` chooses, leave a process without one."""
    machines = [Machine(node) for node in there]
    processes = [role for role in trial for _ in range(role.processes * count)]
    chance.shuffle(processes)
    for role in processes:
        ways = [(machine, gpus) for machine in machines for gpus in machine.ways(role)]
        if not ways:
            return True
        machine, gpus = chance.choice(ways)
        machine.take(role, gpus)
    return False


@given(roles(), nodes(), st.randoms(use_true_random=False))
def test_trials_that_run_together_all_find_their_places_however_awkwardly_ray_puts_them(trial, there, chance):
    count = at_once(trial, there)
    note(f"{count} at once")
    if count > 1:
        assert not any(stuck(trial, count, there, chance) for _ in range(5))


@given(st.integers(1, 4), st.integers(1, 4), nodes())
def test_where_all_processes_are_alike_as_many_run_as_have_room_and_one_more_would_not(ranks, actors, there):
    trial = [Role("learner", ranks, 1, 0), Role("rollout", actors, 1, 0)]
    count = at_once(trial, there)
    assert count == max(1, sum(node.cpus for node in there) // (ranks + actors))
    more = [Role(role.name, role.processes * (count + 1), role.cpus, role.gpus) for role in trial]
    assert placed(more, there) != {role.name: role.processes for role in more}


def test_two_trials_where_one_and_a_third_have_room_would_wait_for_each_other_and_so_one_runs():
    trial, there = [Role("learner", 2, 1, 0), Role("rollout", 1, 1, 0)], [Node(4, 0, {})]
    assert at_once(trial, there) == 1
    assert any(stuck(trial, 2, there, random.Random(seed)) for seed in range(20))


def scan_on(preset=None, at_once=None, cpus=1.0, **keys):
    """A scan of trials that are runs on a preset's cluster, or processes."""
    file = ROOT / f"conf/cluster/{preset or 'inline'}.yaml"
    cluster = ClusterConfig(**yaml.safe_load(file.read_text()) | keys)
    return Scan(stage="dmd", cluster=cluster, dmd=DmdConfig(batch_size=8), scan=ScanConfig(at_once=at_once, cpus=cpus))


def overview(*arguments, **keys):
    """The line of a scan's dry run that says how many trials run at once."""
    return scan_overview(scan_on(*arguments, **keys), []).splitlines()[-1]


@pytest.mark.parametrize(("nodes_of_each", "expected"), [((1, 3), 1), ((2, 6), 2), ((2, 5), 1), ((4, 6), 2)])
def test_of_the_labelled_preset_whole_trials_run_side_by_side(nodes_of_each, expected):
    label = {"ray.io/accelerator-type": "H100"}
    learners, rollouts = nodes_of_each
    there = [Node(64, 8, A | label)] * learners + [Node(64, 8, B | label)] * rollouts
    assert at_once(placement.roles(scan_on("h100_32")), there) == expected


def test_a_trial_of_one_process_takes_the_cpus_that_were_asked_for_on_one_node():
    assert at_once([Role("trial", 1, 2.0, 0.0)], [Node(5, 0, {}), Node(3, 0, {}), Node(1, 0, {})]) == 3


def test_a_dry_run_says_how_many_run_at_once_as_far_as_it_can_know(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = usable_cpus()
    numbers = lambda line: [int(number) for number in re.findall(r"\b\d+\b", line)]  # noqa: E731
    assert numbers(overview()) == [here, here]
    assert numbers(overview("laptop")) == [max(1, here // 2), here]
    assert numbers(overview(at_once=1))[0] == 1
    assert numbers(overview("h100_8", gpus=24)) == [3, 24]
    assert numbers(overview("ray", at_once=2, address="a:1")) == [2]
    with pytest.raises(ConfigError) as error:
        overview("h100_8", gpus=4, node_gpus=4)
    assert (error.value.key, error.value.value) == ("cluster.gpus", 4)
    assert numbers(error.value.problem)[:3] == [2, 6, 8]
