"""What the pool's size is decided by, second by second."""

import random
from collections import Counter, deque
from contextlib import ExitStack

import pytest

from cluster.autoscale.meter import Meter

SPAN = 40


class Machine:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("seed", range(8))
def test_levels_are_those_of_a_diary_of_the_last_seconds_only(seed):
    """Each second ranks begin or end to wait, actors come, go, wait for room; the learner takes and looks are taken."""
    draw, clock = random.Random(seed), Machine()
    meter, diary = Meter(SPAN, clock), deque(maxlen=SPAN)
    ranks, idlers, replaced, running = [], [], 0, 0
    for second in range(1, 400):
        match draw.randrange(8):
            case 0 | 1 if len(ranks) < 3:
                ranks.append(entered(meter.time("waiting")))
            case 2 | 3 if ranks:
                ranks.pop().close()
            case 4:
                by = draw.randint(-running, 9 - running)
                meter.change({"running": by})
                running += by
            case 5:
                by = draw.randint(-replaced, 9 - replaced)
                meter.change({"replacing": by})
                replaced += by
            case 6:
                idlers.append(entered(meter.time("idle")))
            case 7 if idlers:
                idlers.pop().close()
        clock.now = float(second)
        levels = {"waited": bool(ranks), "idle": len(idlers), "running": running, "replacing": replaced}
        diary.append(Counter(levels))
        measured = meter.measure(size=9, capacity=100, gpu_hours=0.0)
        if second >= SPAN:
            assert measured.whole
            mean = {name: sum(entry[name] for entry in diary) / SPAN for name in levels}
            assert measured.waiting_share == pytest.approx(mean["waited"])
            assert measured.idle == pytest.approx(mean["idle"])
            assert measured.running == pytest.approx(mean["running"])
            assert measured.replacing == pytest.approx(mean["replacing"])
        assert measured.starting == 9 - running


def entered(context):
    stack = ExitStack()
    stack.enter_context(context)
    return stack


def test_the_learners_seconds_per_window_are_its_time_without_waiting_over_what_it_took():
    clock = Machine()
    meter = Meter(SPAN, clock)
    meter.begin(windows_per_update=8)
    for _ in range(50):
        with meter.time("waiting"):
            clock.now += 3.0
        meter.take(4)
        clock.now += 2.0
        measured = meter.measure(1, 100, 0.0)
    assert measured.learner_s == pytest.approx(0.5) and measured.waiting_share == pytest.approx(0.6)
    assert measured.windows_per_s == pytest.approx(4 / 5)


def test_what_the_learner_does_once_in_its_first_update_is_forgotten_with_the_second():
    clock = Machine()
    meter = Meter(SPAN, clock)
    meter.begin(windows_per_update=8)
    for taken, seconds in ((6, 500.0), (2, 300.0)):
        meter.take(taken)
        clock.now += seconds
        assert not meter.measure(1, 100, 0.0).warm
    for _ in range(50):
        meter.take(2)
        clock.now += 1.0
    measured = meter.measure(1, 100, 0.0)
    assert measured.warm and measured.learner_s == pytest.approx(0.5)


def test_an_actors_seconds_per_window_are_those_of_whole_dispatches_of_late():
    clock = Machine()
    meter = Meter(SPAN, clock)
    meter.begin(windows_per_update=8)
    for seconds in (1000.0, *[7.0] * 20):
        meter.dispatch(5)
        clock.now += seconds
        meter.end(5, seconds)
        clock.now += 30.0  # waits for room
        measured = meter.measure(1, 64, 0.0)
    assert measured.actor_s == pytest.approx(1.4) and measured.dispatch_s == pytest.approx(7.0)
    assert measured.fits == 64 // 5


def test_a_stage_begins_without_what_was_measured_of_another_and_hours_go_on():
    clock = Machine()
    meter = Meter(SPAN, clock)
    meter.begin(windows_per_update=4)
    meter.change({"held": 2})
    for _ in range(3):
        meter.take(4)
        meter.dispatch(4)
        clock.now += 1200.0
        meter.end(1, 1200.0)
    before = meter.measure(2, 100, 0.0)
    assert before.actor_s and before.learner_s and meter.totals()["held"] / 3600 == pytest.approx(2.0)
    meter.begin(windows_per_update=4)
    after = meter.measure(2, 100, 0.0)
    assert after.actor_s is None and after.learner_s is None and not after.whole and not after.warm
    clock.now += 1800.0
    hours = meter.totals()["held"] / 3600
    assert hours == pytest.approx(3.0), "a process that has a node is paid for, also while a stage begins"


def test_reward_processes_are_busy_while_as_many_groups_are_there_and_not_more_than_wholly():
    clock = Machine()
    meter = Meter(SPAN, clock, scorers=2)
    groups = []
    for count in (0, 1, 2, 5):
        while len(groups) < count:
            groups.append(entered(meter.time("scoring")))
        clock.now += SPAN
        assert meter.measure(1, 100, 0.0).scoring == min(1.0, count / 2)
    for group in groups:
        group.close()
    clock.now += SPAN
    assert meter.measure(1, 100, 0.0).scoring == 0


def test_how_many_dispatches_fit_is_a_matter_of_this_stage_alone():
    clock = Machine()
    meter = Meter(SPAN, clock)
    for windows, times in ((8, 50), (64, 4)):
        meter.begin(32)
        for _ in range(times):
            clock.now += 1
            meter.dispatch(windows)
            meter.end(0, 1.0)
    assert meter.measure(1, 256, 0.0).fits == 4
