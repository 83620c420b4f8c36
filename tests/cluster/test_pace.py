"""What the pool's size is decided by, second by second."""

import random
from collections import Counter, deque
from contextlib import ExitStack

import pytest

from cluster.pace import Pace

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
    pace, diary = Pace(SPAN, clock), deque(maxlen=SPAN)
    ranks, idlers, replaced, running = [], [], set(), set()
    for second in range(1, 400):
        match draw.randrange(8):
            case 0 | 1 if len(ranks) < 3:
                ranks.append(entered(pace.learner_waits()))
            case 2 | 3 if ranks:
                ranks.pop().close()
            case 4:
                slot = draw.randrange(9)
                pace.there(slot)
                running.add(slot)
                replaced.discard(slot)
            case 5:
                slot = draw.randrange(9)
                again = draw.random() < 0.5
                pace.gone(slot, replaced=again)
                running.discard(slot)
                replaced = replaced | {slot} if again else replaced - {slot}
            case 6:
                idlers.append(entered(pace.finds_no_room()))
            case 7 if idlers:
                idlers.pop().close()
        clock.now = float(second)
        levels = {"waited": bool(ranks), "idle": len(idlers), "running": len(running), "replacing": len(replaced)}
        diary.append(Counter(levels))
        measured = pace.measure(size=9, capacity=100, gpu_hours=0.0)
        if second >= SPAN:
            assert measured.whole
            mean = {name: sum(entry[name] for entry in diary) / SPAN for name in levels}
            assert measured.waiting_share == pytest.approx(mean["waited"])
            assert measured.idle == pytest.approx(mean["idle"])
            assert measured.running == pytest.approx(mean["running"])
            assert measured.replacing == pytest.approx(mean["replacing"])
        assert measured.starting == 9 - len(running)


def entered(context):
    stack = ExitStack()
    stack.enter_context(context)
    return stack


def test_the_learners_seconds_per_window_are_its_time_without_waiting_over_what_it_took():
    clock = Machine()
    pace = Pace(SPAN, clock)
    pace.begin(windows_per_update=8)
    for _ in range(50):
        with pace.learner_waits():
            clock.now += 3.0
        pace.taken(4)
        clock.now += 2.0
        measured = pace.measure(1, 100, 0.0)
    assert measured.learner_s == pytest.approx(0.5) and measured.waiting_share == pytest.approx(0.6)
    assert measured.windows_per_s == pytest.approx(4 / 5)


def test_what_the_learner_does_once_in_its_first_update_is_forgotten_with_the_second():
    clock = Machine()
    pace = Pace(SPAN, clock)
    pace.begin(windows_per_update=8)
    for taken, seconds in ((6, 500.0), (2, 300.0)):
        pace.taken(taken)
        clock.now += seconds
        assert not pace.measure(1, 100, 0.0).warm
    for _ in range(50):
        pace.taken(2)
        clock.now += 1.0
    measured = pace.measure(1, 100, 0.0)
    assert measured.warm and measured.learner_s == pytest.approx(0.5)


def test_an_actors_seconds_per_window_are_those_of_whole_dispatches_without_its_waits_and_its_start():
    clock = Machine()
    pace = Pace(SPAN, clock)
    pace.begin(windows_per_update=8)
    for number in range(20):
        pace.begins(0, windows=5, warm=number > 0)
        clock.now += 100.0 if number == 0 else 2.0  # the first block of a process comes late, once
        pace.delivers(0, "MadeBlock")
        for _ in range(5):
            clock.now += 1.0
            pace.delivers(0, "Window")
        pace.ends(0)
        clock.now += 30.0  # waits for room
        measured = pace.measure(1, 64, 0.0)
        assert measured.actor_s == pytest.approx(1.4, abs=0.41 if number < 3 else 0.11)
    assert measured.actor_s == pytest.approx(1.4) and measured.dispatch_s == pytest.approx(7.0)
    assert measured.fits == 64 // 5


def test_a_stage_begins_without_what_was_measured_of_another_and_hours_go_on():
    clock = Machine()
    pace = Pace(SPAN, clock)
    pace.begin(windows_per_update=4)
    pace.there(0), pace.there(1)
    for _ in range(3):
        pace.taken(4)
        pace.begins(0, windows=4, warm=True)
        pace.delivers(0, "Window")
        clock.now += 1200.0
        pace.ends(0)
    before = pace.measure(2, 100, 0.0)
    assert before.actor_s and before.learner_s and pace.actor_hours == pytest.approx(2.0)
    pace.begin(windows_per_update=4)
    after = pace.measure(2, 100, 0.0)
    assert after.actor_s is None and after.learner_s is None and not after.whole and not after.warm
    assert pace.actor_hours == pytest.approx(2.0)


def test_how_many_dispatches_fit_is_a_matter_of_this_stage_alone():
    clock = Machine()
    pace = Pace(SPAN, clock)
    pace.there(0)
    for windows, times in ((8, 50), (64, 4)):
        pace.begin(32)
        pace.there(0)
        for _ in range(times):
            clock.now += 1
            pace.begins(0, windows, warm=True)
            pace.ends(0)
    assert pace.measure(1, 256, 0.0).fits == 4
