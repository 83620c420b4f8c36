"""Compilers and drivers are looked for before a run starts: here for a run of this machine, else on the nodes."""

import pytest
import torch

import settings
from cluster.bootstrap.machine_needs import check_this_machine, machine_needs
from cluster.planning import placement
from models.errors import ConfigError
from models.wan import device_faults

GPUS = ["cluster=ray", "cluster.rank_gpus=1", "cluster.actor_gpus=0.5"]


def needs_of(config):
    return machine_needs(placement.roles(config), config.learner, config.rollout)


def check(config):
    check_this_machine(config.cluster, needs_of(config))


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without compilers, with a driver of CUDA 12."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(device_faults, "_driver_version", lambda: 12040)


@pytest.mark.parametrize("cluster", [[], ["cluster=ray"]])
@pytest.mark.parametrize("key", ["learner.compile", "rollout.compile"])
def test_a_missing_compiler_is_named_by_the_key_that_needs_it(bare, key, cluster):
    with pytest.raises(ConfigError) as error:
        check(settings.load(["preset=tiny", *cluster, f"{key}=true"]))
    assert error.value.key == key and f"{key}=false" in error.value.fix and "g++" in error.value.problem


def test_an_old_driver_is_named_by_the_key_that_asks_for_gpus_and_before_compilers(bare):
    with pytest.raises(ConfigError) as error:
        check(settings.load(["preset=tiny", *GPUS, "learner.compile=true"]))
    assert (error.value.key, error.value.value) == ("cluster.rank_gpus", 1) and "12.4" in error.value.problem
    assert str(error.value).startswith("cluster.rank_gpus=1: ")


@pytest.mark.parametrize("cluster", ["h100_8", "h100_32"])
def test_a_preset_of_a_cluster_without_an_address_runs_here_and_this_machine_is_checked(bare, monkeypatch, cluster):
    config = settings.load(["preset=wan_1_3b", "stage=dmd", "init=x", f"cluster={cluster}"])
    with pytest.raises(ConfigError) as error:
        check(config)
    assert error.value.key == "cluster.rank_gpus" and "cluster.address" in error.value.fix
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    check(config)


def test_reward_processes_need_a_driver_in_the_stage_that_has_them(bare):
    given = ["preset=tiny", "cluster=ray", "cluster.reward_gpus=1"]
    check(settings.load([*given, "stage=dmd", "init=x"]))
    with pytest.raises(ConfigError) as error:
        check(settings.load([*given, "stage=grpo", "grpo.init=x"]))
    assert (error.value.key, error.value.value) == ("cluster.reward_gpus", 1)


def test_runs_that_need_neither_and_runs_of_other_machines_start(bare):
    check(settings.load(["preset=tiny"]))
    check(settings.load(["preset=tiny", "cluster=ray"]))
    check(settings.load(["preset=tiny", *GPUS, "cluster.address=head:6379", "learner.compile=true"]))


def test_each_role_is_looked_at_where_its_processes_may_be():
    config = settings.load(["preset=wan_1_3b", "cluster=h100_32", "init=x", "stage=dmd"])
    needs = {need.key: need for need in needs_of(config)}
    assert list(needs) == ["cluster.rank_gpus", "cluster.actor_gpus", "learner.compile", "rollout.compile"]
    for key in ("cluster.rank_gpus", "learner.compile"):
        assert needs[key].role.labels == config.cluster.learner_labels
    for key in ("cluster.actor_gpus", "rollout.compile"):
        assert needs[key].role.labels == config.cluster.rollout_labels
    assert needs["learner.compile"].arguments == needs["rollout.compile"].arguments == ("cuda",)
