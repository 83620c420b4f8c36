"""What does not fit is refused before it is rented, with the keys that make it fit."""

import re

import pytest

import settings
from cluster.config.devices import DEVICES
from cluster.planning import memory
from cluster.planning.memory_check import (
    actor_bytes,
    check_machine,
    check_memory,
    machine_bytes,
    rank_bytes,
)
from cluster.planning.run_shape import run_shape_of
from models.errors import ConfigError
from tests.fakes.commands import replaced

EIGHT = ["preset=wan_1_3b", "cluster.learner_ranks=8"]
ONE_14B = ["preset=wan_1_3b", "teacher_model=wan_14b", "base=x", "learner.teacher_dtype=float32"]


def refused(*arguments):
    with pytest.raises(ConfigError) as found:
        check_memory(run_shape_of(settings.load(replaced(EIGHT, *arguments))))
    assert (found.value.key, found.value.value) == ("device_name", "h100") and "80 GB" in found.value.problem
    return found.value


def test_the_preset_fits_and_the_tiny_world_fits_anywhere():
    check_memory(run_shape_of(settings.load(EIGHT)))
    check_memory(run_shape_of(settings.load(["preset=tiny", "device_name=cpu"])))


@pytest.mark.parametrize(
    "arguments",
    [
        ["learner.checkpoint_activations=false"],
        [*ONE_14B, "cluster.learner_ranks=1"],
        [*ONE_14B, "cluster.learner_ranks=1", "learner.checkpoint_activations=false", "learner.dtype=float32"],
        ["student.horizon_frames=168", "window.frames=168", "rollout.frames=420"],
        ["rollout.batch=16", "buffer.windows=400", "buffer.max_age=9"],
    ],
)
def test_the_keys_that_are_named_are_a_cure_and_none_of_several_is_one_alone(arguments):
    error = refused(*arguments)
    config = settings.load(replaced(EIGHT, *arguments))
    work = run_shape_of(config)
    needed = max(count(work, stage) for count in (rank_bytes, actor_bytes) for stage in work.stages)
    assert f" {needed / 1e9:.1f} GB" in error.problem
    keys = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", error.fix)
    check_memory(run_shape_of(settings.load(replaced(EIGHT, *arguments, *keys))))
    if len(keys) > 1:
        for key in keys:
            refused(*arguments, key)


def test_where_no_key_helps_other_devices_are_named():
    large = ["student.model=wan_14b", "base=x", "teacher_model=wan_14b", "learner.lora_rank=8"]
    error = refused(*large, "cluster.learner_ranks=1")
    assert all(fact in error.fix for fact in ("device_name", *DEVICES)) and "=" not in error.fix


def test_rollout_processes_that_share_a_gpu_share_its_memory():
    alone, shared = (run_shape_of(settings.load(replaced(EIGHT, *more))) for more in ([], ["cluster.actor_gpus=0.25"]))
    assert (
        actor_bytes(shared, "dmd")
        == 4 * actor_bytes(alone, "dmd")
        == 4 * sum(line.value for line in memory.actor_memory(alone, "dmd"))
    )
    assert " 141.9 GB" in refused("cluster.actor_gpus=0.1").problem


@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        ("ode", ["stage=ode", "ode.batch_size=256", "learner.micro_batch=null"]),
        ("grpo", ["stage=grpo", "grpo.init=x", "grpo.groups=16", "learner.checkpoint_activations=false"]),
    ],
)
def test_every_stage_of_the_run_is_checked(stage, arguments):
    error = refused(*arguments)
    assert f" in stage {stage}" in error.problem and "learner." in error.fix


INLINE = ["preset=smoke", "cluster=inline", "student.model=tiny_wide", "dmd.batch_size=64", "rollout.windows=64",
          "buffer.windows=512", "stage=dmd", "init=x"]  # fmt: skip


def machine_refused(free, *arguments):
    work = run_shape_of(settings.load(replaced(INLINE, *arguments)))
    with pytest.raises(ConfigError) as found:
        check_machine(work, free)
    assert (found.value.key, found.value.value) == ("student.model", "tiny_wide")
    return found.value


def test_one_machine_is_refused_only_for_more_than_it_has_free_for_sure_and_the_cure_cures():
    work = run_shape_of(settings.load(INLINE))
    needed = machine_bytes(work, "dmd")
    check_machine(work, needed)
    error = machine_refused(needed - 1)
    (key,) = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", error.fix)
    check_machine(run_shape_of(settings.load(replaced(INLINE, key))), needed - 1)
    assert "=" not in machine_refused(1e6).fix


def test_processes_of_one_machine_add_up_and_share_their_libraries():
    one, four = (
        run_shape_of(settings.load(["preset=smoke", "stage=dmd", "init=x", f"cluster.rollout_actors={n}"]))
        for n in (1, 4)
    )
    actor = machine_bytes(four, "dmd") - machine_bytes(one, "dmd")
    held = sum(line.value for line in memory.actor_memory(one, "dmd"))
    assert 0.85 * held <= actor / 3 <= 1.4 * held


def test_a_rank_is_judged_by_the_gpu_that_it_has():
    work = run_shape_of(settings.load(EIGHT))
    needed = max(rank_bytes(work, stage) for stage in work.stages)
    check_memory(work, needed)
    with pytest.raises(ConfigError) as found:
        check_memory(work, needed - 1)
    (key,) = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", found.value.fix)
    check_memory(run_shape_of(settings.load(replaced(EIGHT, key))), needed - 1)
    assert found.value.key == "student.model"
