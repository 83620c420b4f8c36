"""What a usable advantage costs, on paper and as it is measured."""

import pytest

from benchmarks import group_cost
from models.network_config import StudentConfig
from models.records import GRPO


def test_the_cost_on_paper_is_the_mean_over_every_fork_written_slowly():
    seconds, blocks, window, members = 0.70, 134, 7, 8
    forked = [seconds * (fork + members * window) / members for fork in range(blocks - window + 1)]
    whole = members * seconds * blocks / members
    costs = group_cost.on_paper()
    assert costs["forked_gpu_s"] == pytest.approx(sum(forked) / len(forked), abs=0.01)
    assert costs["whole_gpu_s"] == pytest.approx(whole) and costs["ratio"] < group_cost.LIMIT
    assert costs["ratio"] == pytest.approx(sum(forked) / len(forked) / whole, abs=1e-4)


def test_what_is_measured_are_groups_of_eight_at_unlike_forks_and_whole_videos_of_sixteen_horizons():
    shape = StudentConfig()
    forks = [r.windows[0] for n in range(5) for r in group_cost.dispatch(shape, 12, group_cost.BATCH, n)]
    assert len(forks) == 40 and {plan.role for plan in forks} == {GRPO}
    assert {(plan.members, plan.frames) for plan in forks} == {(8, 12)}
    assert len({plan.start for plan in forks}) > 20 and max(plan.start for plan in forks) <= 180
    (whole,) = group_cost.dispatch(shape, 192, 1, 0)
    assert (whole.windows[0].start, whole.windows[0].frames, whole.frames) == (0, 192, 192)
