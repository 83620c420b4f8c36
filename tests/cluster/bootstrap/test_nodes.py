import pytest

import settings
from cluster.bootstrap.nodes import needs_of
from cluster.planning import memory
from cluster.planning.run_shape import run_shape_of


@pytest.mark.parametrize(
    "stage", [["stage=dmd", "init=x"], ["stage=grpo", "grpo.init=x", "teacher=x", "grpo.groups=16"]]
)
def test_the_object_store_holds_what_waits_and_two_versions_with_a_quarter_to_spare(stage):
    config = settings.load(["preset=wan_1_3b", "cluster=h100_32", *stage])
    held = {line.name: line.value for line in memory.shared_memory(run_shape_of(config))}
    needed = 1.25 * (held["the buffer"] + 2 * held["one version of the weights"])
    assert needs_of(config).store_bytes == int(needed) > needs_of(settings.load(["preset=tiny"])).store_bytes


def test_a_ray_of_its_own_has_a_cpu_for_every_process():
    config = settings.load(["preset=tiny", "cluster.rollout_actors=3", "cluster.learner_ranks=2"])
    assert needs_of(config).cpus == 5
