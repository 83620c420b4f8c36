import pytest

from benchmarks.control_plane import SIDES, WAITING, grown_mb


@pytest.mark.ray
@pytest.mark.proof
def test_waiting_windows_of_a_megabyte_do_not_grow_the_coordinators_memory(local_ray):
    grown, waiting = grown_mb(SIDES[1])
    assert waiting > 0.9 * WAITING and grown < 0.5 * waiting
