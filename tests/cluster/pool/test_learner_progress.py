"""Status lines say what the learner does, and only the end of the last stage is called the end."""

import threading
from types import SimpleNamespace

import pytest
from ray.exceptions import GetTimeoutError, RayActorError

from cluster import ray_launch
from cluster.pool import learner_progress
from cluster.pool.learner_progress import LearnerProgress, StatusLines
from cluster.ray_cluster import RayCluster
from models.records import CRITIC


class Screen:
    """Keeps lines and progress."""

    def __init__(self):
        self.lines, self.progress = [], []

    def __call__(self, *shown):
        self.progress.append(shown)

    def say(self, line):
        self.lines.append(line)


class Remote:
    """A method of an actor that answers at once, and keeps its arguments."""

    def __init__(self, answer=None):
        self.answer, self.calls = answer, []

    def remote(self, *arguments):
        self.calls.append(arguments)
        return self.answer() if callable(self.answer) else self.answer


@pytest.fixture
def answered(monkeypatch):
    """Let answers of fakes be their own references; an exception is raised, as Ray does."""

    def get(answer, timeout):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("ray.get", get)


@pytest.mark.parametrize(
    ("stage", "step", "first", "absent"),
    [("ode", 4, "stage ode has ended", "finishing"), ("dmd", 4, "finishing", "ended"), ("dmd", 3, "no update", "end")],
)
def test_the_state_is_in_every_line_and_only_the_last_stage_finishes(stage, step, first, absent):
    now, screen = [0.0], Screen()
    lines = StatusLines(screen, "dmd", lambda: now[0])
    for now[0] in range(40):
        lines.observe((stage, step, 4, ""), "STATE")
    assert len(screen.lines) == 3 and all(line.endswith(": STATE") for line in screen.lines)
    assert all(line.startswith(first) and absent not in line for line in screen.lines)
    assert [line.split(" s: ")[0].rsplit(" ")[-1] for line in screen.lines] == ["11", "22", "33"]
    assert screen.progress[1:] == [("starting learner", 1, 1, "0 s"), (stage, step, 4, "")]


def test_the_learners_work_is_timed_from_its_beginning():
    now = [0.0]
    progress = LearnerProgress(lambda: now[0])
    progress.note("updating", ("dmd", 1, 4, ""))
    now[0] = 5.0
    progress.note("updating")
    now[0] = 7.0
    assert "updating (7 s)" in progress.state() and progress.shown == ("dmd", 1, 4, "")
    progress.note("waiting")
    assert "waiting (0 s)" in progress.state()


def watched(monkeypatch, *answers):
    """Return the lines of a watch over a coordinator that gives these answers."""
    monkeypatch.setattr(learner_progress, "SILENCE_S", -1.0)
    monkeypatch.setattr(ray_launch, "_POLL_S", 0.0)
    ended, screen, left = threading.Event(), Screen(), list(answers)

    def look():
        if len(left) == 1:
            ended.set()
        return left.pop(0) if left else (None, [], "END")

    ray_launch._watch(SimpleNamespace(look=Remote(look)), screen, "dmd", ended)
    return screen.lines


def test_a_coordinator_without_an_answer_is_starting_until_its_first(answered, monkeypatch):
    silent = GetTimeoutError("no answer")
    before, state, after = watched(monkeypatch, silent, (None, [], "STATE"), silent)
    assert "is starting" in before and "GetTimeoutError" not in before
    assert state.endswith(": STATE") and "does not answer (GetTimeoutError)" in after


def test_a_coordinator_that_is_lost_before_its_first_answer_is_not_starting(answered, monkeypatch):
    (line,) = watched(monkeypatch, RayActorError())
    assert "does not answer (RayActorError)" in line


@pytest.mark.parametrize("compiles", [False, True])
def test_a_rank_sends_what_it_begins(answered, monkeypatch, compiles):
    monkeypatch.setattr("cluster.ray_cluster.fetch", lambda headers: headers)
    coordinator = SimpleNamespace(
        clock=Remote(0.0), show=Remote(), take=Remote([]), state=Remote(({}, [])), begin=Remote(1)
    )
    cluster = RayCluster(coordinator, compiles)
    cluster.timeout_s = 1.0
    for _ in range(2):
        cluster.take(CRITIC, 0)
    cluster.state()
    cluster.show("dmd", 3, 4, "")
    cluster.show("dmd", 4, 4, "")
    phases = [phase for phase, _ in coordinator.show.calls]
    assert "reading weights" in phases[0]
    assert phases[1] == phases[3] and "waiting" in phases[1]
    assert ("compiling" in phases[2], "compiling" in phases[4]) == (compiles, False)
    assert "checkpoint" in phases[5] and "updating" in phases[6] and "ending stage dmd" in phases[7]
    assert coordinator.show.calls[-1][1] == ("dmd", 4, 4, "")
