"""Who may run where: what Ray is asked for, and whether nodes have room, against trying every way of placing."""

import itertools
import random
import re

import pytest
import yaml

import settings
from cluster.launch import preflight
from cluster.planning import placement
from cluster.planning.placement import Node, Role
from cluster.planning.shortage_cure import cure
from models.errors import ConfigError
from tests.fakes.commands import replaced

PRESETS = settings.ROOT / "conf/cluster"
WAN = ["preset=wan_1_3b", "stage=dmd", "init=x"]


def nodes(count, gpus, cpus=64, **labels):
    return [Node(cpus, gpus, {name.replace("__", "/"): value for name, value in labels.items()})] * count


def h100(count, role, **more):
    labels = {"role": role, "ray.io/accelerator-type": "H100"} | more
    return [Node(64, 8, labels)] * count


def too_large(config):
    """Check a run that must not fit; returns cluster.gpus and the numbers of the problem."""
    with pytest.raises(ConfigError) as error:
        placement.check(config)
    assert error.value.key == "cluster.gpus"
    return error.value.value, re.findall(r"\d+", error.value.problem)


# -- what Ray is asked for --------------------------------------------------------------------------------------------


def test_without_labels_ray_is_asked_for_nothing_but_cpus_and_gpus():
    config = settings.load(["stage=grpo", "cluster.actor_gpus=1", "cluster.weight_transport=collective"])
    assert placement.options(placement.learner(config.cluster)) == {"num_cpus": 1}
    assert placement.options(placement.rollout(config.cluster)) == {"num_cpus": 1, "num_gpus": 1}
    assert placement.options(placement.reward(config.cluster)) == {"num_cpus": 1}
    assert placement.options(placement.relay(config.cluster)) == {"num_cpus": 0, "num_gpus": 0.1}


def test_a_pool_that_sizes_itself_has_room_kept_for_its_largest_size_and_begins_with_its_smallest():
    sized = ["autoscale.enabled=true", "autoscale.minimum=2", "autoscale.maximum=9", "cluster.rollout_actors=4"]
    config = settings.load(["preset=tiny", "stage=dmd", "init=x", *sized])
    assert {role.name: role.processes for role in placement.roles(config)}["rollout"] == 9
    assert {role.name: role.processes for role in placement.at_start(config)} == {"learner": 1, "rollout": 2}
    given = settings.load(["preset=tiny", "stage=dmd", "init=x", *sized, "cluster.first_actors=3"])
    assert {role.name: role.processes for role in placement.at_start(given)}["rollout"] == 3
    gpus = ["cluster.gpus=8", "cluster.rank_gpus=1", "cluster.actor_gpus=1"]
    assert too_large(settings.load(["preset=tiny", "stage=dmd", "init=x", *sized, *gpus])) == (8, ["1", "9", "10"])


def test_evaluation_takes_a_place_like_a_rollout_process_and_no_start_waits_for_it():
    gpus = ["cluster.rank_gpus=1", "cluster.actor_gpus=1", "cluster.gpus=4", "evaluation.every=5"]
    run = ["preset=tiny", "stage=dmd", "init=x", *gpus, "cluster.first_actors=1"]
    config = settings.load([*run, "cluster.rollout_actors=2"])
    roles = {role.name: role for role in placement.roles(config)}
    assert roles["evaluation"].processes == 1
    assert placement.options(roles["evaluation"]) == placement.options(roles["rollout"])
    assert {role.name for role in placement.at_start(config)} == {"learner", "rollout"}
    placement.check(config)
    assert too_large(settings.load([*run, "cluster.rollout_actors=3"])) == (4, ["1", "3", "1", "5"])
    for other in ("stage=ode", "debug.rollout_only=true", "debug.learner_only=true", "evaluation.every=0"):
        arguments = [argument for argument in run if other != "stage=ode" or not argument.startswith("init")]
        assert "evaluation" not in {role.name for role in placement.roles(settings.load(replaced(arguments, other)))}


def test_rollouts_and_rewards_prefer_spot_nodes_and_learner_ranks_and_relay_never_do():
    config = settings.load([*WAN[:1], "stage=grpo", "grpo.init=x", "cluster=h100_64_spot", "grpo.groups=16"])
    rollouts = {"role": "rollout", "ray.io/accelerator-type": "H100"}
    for role in (placement.rollout(config.cluster), placement.reward(config.cluster)):
        made = placement.options(role)
        assert made["label_selector"] == rollouts | {"ray.io/market-type": "spot"}
        assert made["fallback_strategy"] == [{"label_selector": rollouts}]
    for role in (placement.learner(config.cluster), placement.relay(config.cluster)):
        made = placement.options(role)
        assert made["label_selector"] == {"role": "learner", "ray.io/accelerator-type": "H100"}
        assert "fallback_strategy" not in made


def test_who_gives_labels_means_these_and_no_more():
    given = settings.load([*WAN, "cluster=h100_32", "cluster.rollout_labels={pool:cheap}"]).cluster
    assert given.rollout_labels == {"pool": "cheap"} and given.learner_labels["role"] == "learner"
    assert settings.load([*WAN, "cluster=h100_32", "cluster.learner_labels={}"]).cluster.learner_labels == {}


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("cluster.learner_labels={role:-x}", "cluster.learner_labels="),
        ("cluster.rollout_labels={a b:c}", "cluster.rollout_labels="),
        ("cluster.gpus=0", "cluster.gpus="),
        ("cluster.node_gpus=-1", "cluster.node_gpus="),
        ("cluster.nodes_timeout_s=0", "cluster.nodes_timeout_s="),
        ("cluster.first_actors=2", "cluster.first_actors="),
        ("cluster.actor_gpus=1.5", "cluster.actor_gpus="),
    ],
)
def test_a_mistake_is_answered_in_one_line_that_names_the_key(argument, said):
    with pytest.raises(ValueError, match=said) as caught:
        settings.load([argument])
    assert "\n" not in str(caught.value)


# -- room on nodes ----------------------------------------------------------------------------------------------------


def fits_somehow(wanted, there):
    """Try every way of giving each process a node and, for a share of a GPU, one GPU of it."""
    each = [role for role in wanted for _ in range(role.processes)]
    places = [(n, g) for n, node in enumerate(there) for g in range(max(int(node.gpus), 1))]
    for choice in itertools.product(places, repeat=len(each)):
        cpus = [node.cpus for node in there]
        gpus = [[1.0] * int(node.gpus) for node in there]
        for role, (n, g) in zip(each, choice, strict=True):
            cpus[n] -= role.cpus
            if role.gpus and not gpus[n]:
                break
            if role.gpus:
                gpus[n][g] -= role.gpus
            if any(there[n].labels.get(name) != value for name, value in role.labels.items()):
                break
        else:
            if min(cpus) >= 0 and all(share >= 0 for node in gpus for share in node):
                return True
    return False


def drawn(seed, rollout_labels):
    draw = random.Random(seed)
    there = [Node(draw.randint(1, 4), draw.randint(1, 2), {"role": role}) for role in ("learner", "rollout")]
    wanted = [
        Role("learner", draw.randint(1, 2), 1, draw.choice([0.0, 1.0]), {"role": "learner"}),
        Role("rollout", draw.randint(1, 2), 1, draw.choice([0.0, 0.5, 0.75, 1.0]), rollout_labels),
        Role("reward", draw.randint(0, 1), 1, draw.choice([0.0, 0.25]), rollout_labels),
    ]
    return [role for role in wanted if role.processes], there


@pytest.mark.parametrize("seed", range(60))
def test_where_labels_tell_roles_apart_there_is_room_exactly_when_some_way_of_placing_exists(seed):
    wanted, there = drawn(seed, {"role": "rollout"})
    assert (placement.shortage(wanted, there) is None) == fits_somehow(wanted, there)


@pytest.mark.parametrize("seed", range(60))
def test_room_is_never_promised_that_no_way_of_placing_would_find(seed):
    wanted, there = drawn(seed, {})
    assert placement.shortage(wanted, there) is not None or fits_somehow(wanted, there)


def test_what_is_waited_for_is_said_in_gpus_and_by_label():
    wanted = placement.roles(settings.load([*WAN, "cluster=h100_32"]))
    some = [*h100(1, "learner"), *h100(2, "rollout")]
    line = placement.shortage(wanted, some)
    assert re.findall(r"\b\d+\b", line) == ["24", "32", "16", "24"]
    assert "GPU" in line and "role=rollout, ray.io/accelerator-type=H100" in line
    unlabelled = nodes(4, 8)
    line = placement.shortage(wanted, unlabelled)
    assert re.findall(r"\b\d+\b", line)[:2] == ["32", "32"] and "role=learner" in line
    assert "ray start --labels role=learner,ray.io/accelerator-type=H100" in cure(wanted, unlabelled)
    assert placement.shortage(wanted, [*some, *h100(1, "rollout")]) is None


def test_other_gpus_than_those_of_the_preset_are_named_with_the_keys_to_change():
    wanted = placement.roles(settings.load([*WAN, "cluster=h100_32"]))
    kind = "ray.io/accelerator-type"
    there = [Node(64, 8, {"role": role, kind: "H200"}) for role in ("learner", "rollout", "rollout", "rollout")]
    line = cure(wanted, there)
    assert "H200" in line and "cluster.rollout_labels" in line and "{role: learner}" in line
    free = [*WAN, "cluster=h100_32", "cluster.learner_labels={role:learner}", "cluster.rollout_labels={role:rollout}"]
    assert placement.shortage(placement.roles(settings.load(free)), there) is None


def test_processes_without_gpus_are_counted_in_cpus():
    wanted = placement.roles(settings.load(["cluster.rollout_actors=3"]))
    line = placement.shortage(wanted, nodes(1, 0, cpus=2))
    assert "CPU" in line and re.findall(r"\d+", line) == ["2", "4", "1", "3"]
    assert "cluster.rollout_actors" in cure(wanted, nodes(1, 0, cpus=2))


def test_what_others_use_is_no_room_and_is_said():
    wanted = placement.roles(settings.load([*WAN, "cluster=h100_32"]))
    all_there = [*h100(1, "learner"), *h100(3, "rollout")]
    assert re.findall(r"\d+", placement.shortage(wanted, all_there, in_use=3)) == ["32", "3", "32"]
    assert cure(wanted, all_there) != cure(wanted, all_there[:-1])
    line = placement.shortage(wanted, all_there[:-1], in_use=3)
    assert re.findall(r"\d+", line)[:3] == ["24", "32", "3"] and "role=rollout" in line


def test_what_takes_nothing_is_not_waited_for():
    config = settings.load(["cluster.weight_transport=collective", "cluster.rollout_actors=2"])
    assert any(role.name == "relay" for role in placement.roles(config))
    assert placement.bundles(placement.roles(config))[0] == [{"CPU": 1}] * 3


def test_a_spot_run_starts_with_the_learner_and_its_first_rollouts_and_asks_an_autoscaler_for_no_more():
    config = settings.load([*WAN, "cluster=h100_64_spot"])
    first = [*h100(1, "learner"), *h100(1, "rollout")]
    assert placement.shortage(placement.at_start(config), first) is None
    assert "16 of 64 GPUs" in placement.shortage(placement.roles(config), first)
    resources, labels = placement.bundles(placement.at_start(config))
    assert len(resources) == len(labels) == 8 + 8
    assert [label["role"] for label in labels] == ["learner"] * 8 + ["rollout"] * 8


# -- what the keys describe -------------------------------------------------------------------------------------------


def labellings(count, node_gpus, labels):
    """Every way of giving each of `count` nodes the labels of one role, or none."""
    for choice in itertools.product([{}, *labels], repeat=count):
        yield [Node(64, node_gpus, chosen) for chosen in choice]


@pytest.mark.parametrize("seed", range(30))
def test_a_run_is_refused_exactly_when_no_labelling_of_the_nodes_has_room_for_it(seed):
    draw = random.Random(seed)
    nodes, node_gpus, mine = draw.randint(1, 2), draw.randint(1, 2), [{"role": "learner"}, {"role": "rollout"}, {}]
    wanted = [
        Role("learner", 1, 1, 1.0, draw.choice(mine[::2])),
        Role("rollout", draw.randint(1, 2), 1, draw.choice([0.5, 0.75, 1.0]), draw.choice(mine[1:])),
        Role("reward", draw.randint(0, 2), 1, 0.25, {}),
    ]
    wanted = [role for role in wanted if role.processes]
    labels = [dict(role.labels) for role in wanted if role.labels]
    some_way = any(fits_somehow(wanted, there) for there in labellings(nodes, node_gpus, labels))
    assert (len(placement.nodes_for(wanted, node_gpus)) <= nodes) == some_way


def test_processes_of_several_gpus_are_not_cut_in_two_by_the_end_of_a_node():
    whole = ["cluster.gpus=24", "cluster.node_gpus=8", "cluster.rank_gpus=1", "cluster.actor_gpus=3"]
    placement.check(settings.load([*WAN, *whole, "cluster.rollout_actors=5", "cluster.learner_ranks=1"]))
    large = settings.load([*WAN, *whole, "cluster.rollout_actors=7", "cluster.learner_ranks=1"])
    assert too_large(large) == (24, ["1", "7", "32", "4", "8"])
    with pytest.raises(ValueError, match=r"^cluster\.actor_gpus=9\.0: "):
        settings.load(replaced([*WAN, *whole], "cluster.actor_gpus=9"))


def test_who_asks_for_no_label_may_be_on_nodes_of_any_label():
    labelled = ["cluster.gpus=8", "cluster.node_gpus=8", "cluster.rank_gpus=1", "cluster.rollout_labels={role:rollout}"]
    config = settings.load([*WAN, *labelled, "cluster.learner_ranks=2", "cluster.rollout_actors=6"])
    placement.check(config)
    assert placement.shortage(placement.roles(config), nodes(1, 8, role="rollout")) is None
    apart = settings.load([*WAN, *labelled, "cluster.learner_ranks=2", "cluster.learner_labels={role:learner}"])
    assert too_large(apart) == (8, ["2", "1", "16", "2", "8"])


# -- the presets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["h100_8", "h100_32", "h100_64_spot"])
@pytest.mark.parametrize("stage", [["stage=[ode,dmd]"], ["stage=grpo", "grpo.init=x", "grpo.groups=16"]])
def test_a_preset_fills_the_gpus_that_its_name_says_and_never_more(preset, stage):
    config = settings.load([WAN[0], *stage, f"cluster={preset}"])
    placement.check(config)
    total_gpus = int(preset.split("_")[1])
    assert config.cluster.gpus == total_gpus
    wanted, of = placement.roles(config), config.cluster.node_gpus
    assert sum(placement.devices(group) for group in placement.groups(wanted)) == total_gpus
    described = placement.nodes_for(wanted, of)
    assert len(described) * of == total_gpus and placement.shortage(wanted, described) is None
    assert config.cluster.rank_gpus == 1, "the cluster's keys stand above the preset's"


def test_a_laptop_needs_no_gpu_whatever_the_preset_would_like():
    config = settings.load([WAN[0], "cluster=laptop"])
    assert all(role.gpus == 0 for role in placement.roles(config))


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_says_which_kind_it_is_and_composes_with_the_smoke_run(preset):
    assert yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())["kind"] in ("ray", "inline")
    settings.load(["preset=smoke", f"cluster={preset}", "cluster.learner_ranks=1"])


def test_more_than_a_cluster_can_ever_have_is_refused_before_anything_starts(tmp_path):
    from reports.dry_run import dry_run_text

    config = settings.load([*WAN, "cluster=h100_32", "cluster.rollout_actors=25", f"run_dir={tmp_path}/run"])
    said = r"^cluster\.gpus=32: 8 learner, 25 rollout processes need 40 \(5 nodes of 8\)\. Fix: lower cluster\.rollout_"
    for refuse in (dry_run_text, preflight):
        with pytest.raises(ValueError, match=said):
            refuse(config)
    assert not (tmp_path / "run").exists()
