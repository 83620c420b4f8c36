"""Slots of a pool that makes nothing, with a meter on a clock that the test moves."""

from cluster.autoscale.meter import Meter
from cluster.pool.slots import Slots
from tests.fakes.small_runs import StandingPool

SPAN = 40
"""Seconds that the meter looks back."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def timed_slots(actors: int) -> tuple[Clock, Meter, Slots]:
    clock = Clock()
    meter = Meter(SPAN, clock)
    return clock, meter, Slots(StandingPool(actors), meter, {}, lambda line: None)
