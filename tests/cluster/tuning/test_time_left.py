"""The time that a scan has left: against a scan played out second by second."""

import pytest

from cluster.runs.display import Display
from cluster.tuning.time_left import ScanClock

START_S, UPDATE_S, JUDGE_S, UPDATES, EVERY = 20.0, 2.0, 30.0, 80, 20
WHOLE_S = START_S + UPDATES * UPDATE_S + JUDGE_S


class Played:
    """Trials of equal length, `at_once` in parallel, each told to a clock as Tune would."""

    def __init__(self, trials, at_once):
        self.now, self.events = 0.0, []
        self.clock = ScanClock({str(i): UPDATES for i in range(trials)}, at_once, lambda: self.now)
        free = [0.0] * at_once
        for i in range(trials):
            begun = min(free)
            free[free.index(begun)] = begun + WHOLE_S
            self.events.append((begun, 2, "begins", (str(i),)))
            for step in range(EVERY, UPDATES, EVERY):
                self.events.append((begun + START_S + step * UPDATE_S, 1, "measured", (str(i), UPDATES - step)))
            self.events.append((begun + WHOLE_S, 0, "ends", (str(i), True)))
        self.events.sort()
        self.end = max(free)

    def until(self, seconds):
        while self.events and self.events[0][0] <= seconds:
            self.now, _, what, given = self.events.pop(0)
            getattr(self.clock, what)(*given)
        self.now = seconds
        return self.clock.left_s()


@pytest.mark.parametrize(("trials", "at_once"), [(1, 1), (6, 1), (6, 2), (7, 2), (5, 3), (2, 4)])
def test_once_a_trial_has_ended_the_time_left_is_what_the_scan_then_takes(trials, at_once):
    played = Played(trials, at_once)
    assert played.until(START_S) is None, "nothing was measured yet"
    for share in (0.0, 0.3, 0.9):
        at = WHOLE_S + share * (played.end - WHOLE_S)
        assert played.until(at) == pytest.approx(played.end - at)
    assert played.until(played.end) == 0


def test_before_a_trial_has_ended_only_what_judging_takes_is_unknown_and_starting_counts_once():
    played = Played(4, 1)
    at = START_S + 2 * EVERY * UPDATE_S
    assert played.until(at) == pytest.approx(played.end - at - 4 * JUDGE_S)


def test_several_trials_at_once_do_not_make_an_update_quicker_and_a_last_trial_runs_alone():
    played = Played(3, 2)
    left = played.until(WHOLE_S)
    assert left == pytest.approx(WHOLE_S), "not half of it: the other place is empty"


def test_time_goes_by_between_two_measurements():
    played = Played(1, 1)
    at = START_S + EVERY * UPDATE_S
    first = played.until(at)
    assert played.until(at + 7) == pytest.approx(first - 7)


def test_a_trial_that_is_stopped_has_nothing_left_and_one_that_goes_back_has_more():
    now = 0.0
    clock = ScanClock({"stopped": 100, "back": 100}, 2, lambda: now)
    clock.begins("stopped")
    clock.begins("back")
    now = 10.0
    clock.measured("stopped", 90)
    clock.measured("back", 90)
    assert clock.left_s() == pytest.approx(90)
    clock.ends("stopped", judged=False)
    assert clock.left_s() == pytest.approx(90)
    clock.begins("back")  # in another process, from a checkpoint before its measurement
    clock.measured("back", 95)
    assert clock.left_s() == pytest.approx(95)


def test_the_terminal_shows_the_time_that_was_given_and_guesses_only_without_one(capsys):
    display = Display()
    display("scan", 25, 400, "one", 1234.4)
    assert capsys.readouterr().out == "scan: 25/400, 1234 s left  one\n"
    display("scan", 400, 400, "all", 0.0)
    assert capsys.readouterr().out == "scan: 400/400  all\n"
    display("other", 1, 4, "first")
    assert capsys.readouterr().out == "other: 1/4  first\n"
