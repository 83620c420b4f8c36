"""What does not fit is refused before it is rented, with the keys that make it fit."""

import re

import pytest

import settings
from cluster.config.devices import DEVICES
from cluster.planning import memory
from cluster.planning.memory_check import actor_bytes, check_memory, rank_bytes
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
    needed = max(rank_bytes(run_shape_of(config)), actor_bytes(run_shape_of(config)))
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
        actor_bytes(shared)
        == 4 * actor_bytes(alone)
        == 4 * sum(line.value for line in memory.actor_memory(alone, "dmd"))
    )
    assert " 174.0 GB" in refused("cluster.actor_gpus=0.1").problem
