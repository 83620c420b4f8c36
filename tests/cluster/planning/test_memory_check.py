"""What does not fit is refused before it is rented, with the keys that make it fit."""

import re
from dataclasses import replace

import pytest
from torch import OutOfMemoryError

import settings
from cluster.config.devices import DEVICES
from cluster.planning import memory
from cluster.planning.memory_check import (
    actor_bytes,
    check_actor,
    check_machine,
    check_memory,
    check_rank,
    machine_bytes,
    out_of_memory,
    rank_bytes,
)
from cluster.planning.process_memory import card_memory
from cluster.planning.run_shape import fixed_shape, run_shape_of
from models.errors import ConfigError, StopsRun
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
    assert not any(name in error.fix for name in DEVICES) and "=" not in error.fix, "none of them is large enough"
    fixes = []
    for ranks in (2, 4):
        work = fixed_shape(settings.load(replaced(EIGHT, *large, "dmd.batch_size=8", f"cluster.learner_ranks={ranks}")))
        needed = max(rank_bytes(work, stage) for stage in work.stages)
        with pytest.raises(ConfigError) as found:
            check_rank(work, 1e9)
        fixes.append((needed, {name for name in DEVICES if name in found.value.fix}))
    for needed, named in fixes:
        assert named == {name for name, one in DEVICES.items() if (one.memory_bytes or 0) >= needed}
    assert {"h200"} in [named for _, named in fixes], [round(needed / 1e9) for needed, _ in fixes]


def test_rollout_processes_that_share_a_gpu_share_its_memory():
    alone, shared = (
        run_shape_of(settings.load(replaced(EIGHT, "cluster.rollout_actors=24", *more)))
        for more in ([], ["cluster.actor_gpus=0.25"])
    )
    assert (
        actor_bytes(shared, "dmd")
        == 4 * actor_bytes(alone, "dmd")
        == 4 * sum(line.value for line in memory.actor_memory(alone, "dmd"))
    )
    crowded = ["cluster.actor_gpus=0.1", "cluster.rollout_actors=24"]
    error = refused(*crowded)
    assert " 141.9 GB" in error.problem and "cluster.actor_gpus=1" in error.fix
    check_memory(run_shape_of(settings.load(replaced(EIGHT, *crowded, "cluster.rollout_actors=2"))))


CARD = ["stage=grpo", "grpo.init=x", "grpo.groups=16", "cluster.actor_gpus=0.75", "cluster.reward_gpus=0.25"]


def test_a_reward_process_is_counted_on_the_card_of_an_actor_and_the_actor_checks_that_card():
    work = fixed_shape(settings.load(replaced(EIGHT, *CARD)))
    actor, scorer = (
        sum(line.value for line in lines) for lines in (memory.actor_memory(work, "grpo"), memory.reward_memory(work))
    )
    assert 3e9 < scorer < 12e9
    assert [line.value for line in card_memory(work, "grpo")] == [actor, scorer]
    check_actor(work, actor + scorer)
    with pytest.raises(ConfigError) as found:
        check_actor(work, actor + scorer - 1)
    assert found.value.key == "student.model"
    (key,) = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", found.value.fix)
    check_actor(fixed_shape(settings.load(replaced(EIGHT, *CARD, key))), actor + scorer - 1)


def test_an_actor_without_room_for_itself_names_keys_that_make_it_fit():
    given = replaced(EIGHT, "rollout.batch=4", "buffer.windows=400", "buffer.max_age=9", "rollout.dtype=float32")
    work = fixed_shape(settings.load(given))
    with pytest.raises(ConfigError) as found:
        check_actor(work, 40e9)
    keys = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", found.value.fix)
    check_actor(fixed_shape(settings.load(replaced(given, *keys))), 40e9)


@pytest.mark.parametrize(("rank", "count"), [(3, rank_bytes), (None, actor_bytes)])
def test_a_process_out_of_memory_names_in_one_line_keys_that_lower_its_plan_by_a_tenth(rank, count):
    given = replaced(EIGHT, "learner.micro_batch=2", "dmd.batch_size=16", "rollout.batch=2", "buffer.windows=400")
    work = fixed_shape(settings.load(given))
    error = OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total\nof")
    stop = out_of_memory(work, rank, error)
    assert isinstance(stop, StopsRun) and "\n" not in str(stop) and "2.00 GiB" in str(stop)
    keys = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", str(stop))
    cured = fixed_shape(settings.load(replaced(given, *keys)))
    before, after = (max(count(shape, stage) for stage in work.stages) for shape in (work, cured))
    assert keys and after <= 0.9 * before


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


def test_a_smaller_pool_as_a_cure_keeps_its_first_processes_within_it():
    given = ["preset=smoke", "stage=dmd", "init=x", "cluster.rollout_actors=12", "cluster.first_actors=2",
             "learner.micro_batch=1", "checkpoint.asynchronous=false", "rollout.batch=1"]  # fmt: skip
    work = run_shape_of(settings.load(given))
    room = machine_bytes(replace(work, cluster=replace(work.cluster, rollout_actors=1, first_actors=1)), "dmd") + 1e6
    with pytest.raises(ConfigError) as found:
        check_machine(work, room)
    keys = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", found.value.fix)
    assert found.value.key == "student.model" and {"cluster.rollout_actors=1", "cluster.first_actors=1"} <= {*keys}
    check_machine(run_shape_of(settings.load(replaced(given, *keys))), room)


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
    check_rank(work, needed)
    with pytest.raises(ConfigError) as found:
        check_rank(work, needed - 1)
    (key,) = re.findall(r"([\w.]+=[\w.]+)(?=[, ])", found.value.fix)
    check_rank(run_shape_of(settings.load(replaced(EIGHT, key))), needed - 1)
    assert found.value.key == "student.model"
