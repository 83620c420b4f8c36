"""One clock, one row for each process, and a file that any kill leaves readable."""

import json
import random
import time
from collections import defaultdict

import pytest

from cluster.runs import trace
from cluster.runs.trace import Span, TraceFile, Tracer, clock_offset, shares_of


class Machine:
    """The clocks of a simulated machine: `time` of the day may be wrong and set anew, `perf_counter` never is."""

    def __init__(self, skew_s=0.0):
        self.now_s, self.skew_s = 0.0, skew_s

    def time(self):
        return 1e9 + self.now_s + self.skew_s

    def perf_counter(self):
        return self.now_s


def events_of(path):
    return json.loads(path.read_text() + "]")


def rows_of(events):
    return {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}


def assert_no_overlap(path):
    ends = defaultdict(int)
    for event in events_of(path):
        if event["ph"] == "X":
            assert event["ts"] >= ends[event["pid"]], event
            ends[event["pid"]] = event["ts"] + event["dur"]
    return ends


@pytest.mark.parametrize("seed", range(5))
def test_spans_of_a_process_never_overlap_even_if_its_clock_is_set_back(monkeypatch, tmp_path, seed):
    machine, draw = Machine(), random.Random(seed)
    monkeypatch.setattr(trace, "time", machine)
    tracer = Tracer("learner 0", offset_s=-3.3)
    file = TraceFile(tmp_path / "trace.json")
    for _ in range(300):
        machine.now_s += draw.random() * draw.choice([1e-7, 1e-3, 1.0])
        match draw.randrange(6):
            case 0:
                with tracer.waiting("windows"):
                    machine.now_s += draw.random()
            case 1:
                tracer.until_next("update")
            case 2:
                tracer.until_next("checkpoint", waits=True)
            case 3:
                tracer.settle()
            case 4:
                shares_of(tracer)
                file.write(tracer.drain())
            case 5:
                machine.skew_s -= draw.choice([0.0, 0.0, 60.0])
    file.write(tracer.drain())
    file.file.close()
    assert_no_overlap(tmp_path / "trace.json")
    assert sum(event["ph"] == "X" for event in events_of(tmp_path / "trace.json")) > 100


@pytest.mark.parametrize("seed", range(5))
def test_busy_share_and_waits_make_up_the_whole_interval(monkeypatch, seed):
    machine, draw = Machine(), random.Random(seed)
    monkeypatch.setattr(trace, "time", machine)
    tracer = Tracer("learner 0")
    for _ in range(50):
        began, busy_s = machine.now_s, 0.0
        for _ in range(draw.randrange(1, 5)):
            with tracer.waiting(draw.choice(["student windows", "critic windows"])):
                machine.now_s += draw.random()
            tracer.until_next("update")
            seconds = draw.random()
            machine.now_s += seconds
            busy_s += seconds
            if draw.random() < 0.5:  # a wait that goes on when the interval ends counts in both, in parts
                tracer.until_next("checkpoint", waits=True)
                machine.now_s += draw.random()
        shares = shares_of(tracer)
        assert 0 <= shares["learner/busy_share"] <= 1
        assert shares["learner/busy_share"] == pytest.approx(busy_s / (machine.now_s - began), abs=1e-6)
        waited = sum(seconds for name, seconds in shares.items() if name.startswith("waited/"))
        assert waited + busy_s == pytest.approx(machine.now_s - began, abs=1e-5)


@pytest.mark.parametrize("skew_s", [3600.0, -0.25])
def test_a_clock_is_known_to_half_of_the_quickest_answers_time(monkeypatch, skew_s):
    machine, draw = Machine(), random.Random(skew_s)
    monkeypatch.setattr(trace, "time", machine)
    trips = []

    def ask():
        there, back = draw.expovariate(100), draw.expovariate(100)
        trips.append(there + back)
        machine.now_s += there
        theirs = machine.time() + skew_s
        machine.now_s += back
        return theirs

    assert abs(clock_offset(ask, times=9) - skew_s) <= min(trips) / 2 + 1e-6


def test_spans_of_machines_with_wrong_clocks_lie_where_they_happened(monkeypatch, tmp_path):
    """A baton passes from machine to machine; the clocks are minutes apart, the trace must not be."""
    coordinator = Machine()
    machines = [Machine(skew_s) for skew_s in (-200.0, 0.0, 340.0)]
    tracers = []
    for i, machine in enumerate(machines):
        monkeypatch.setattr(trace, "time", machine)
        tracers.append(Tracer(f"rollout {i}", clock_offset(coordinator.time)))
    truth, spans = [], []
    for turn in range(12):
        machine, tracer = machines[turn % 3], tracers[turn % 3]
        monkeypatch.setattr(trace, "time", machine)
        truth.append((tracer.process, coordinator.time()))
        with tracer.waiting("baton"):
            for clock in (coordinator, *machines):
                clock.now_s += 1.0
        spans += tracer.drain()
    assert [span.process for span in spans] == [process for process, _ in truth]
    for span, (_, started_s) in zip(spans, truth, strict=True):
        assert span.started_s == pytest.approx(started_s, abs=1e-3)
        assert span.duration_s == pytest.approx(1.0, abs=1e-5)


def test_with_its_bracket_the_trace_is_plain_json_with_a_named_row_for_each_process(tmp_path):
    path = tmp_path / "trace.json"
    file = TraceFile(path)
    assert events_of(path), "readable from the first line on"
    file.write([Span("learner 0", "student update", 10.0, 1.0), Span("rollout 3 (pid 7)", "block", 10.5, 0.25)])
    events = events_of(path)
    rows = rows_of(events)
    spans = [event for event in events if event["ph"] == "X"]
    assert [(rows[e["pid"]], e["name"], e["ts"], e["dur"]) for e in spans] == [
        ("learner 0", "student update", 10_000_000, 1_000_000),
        ("rollout 3 (pid 7)", "block", 10_500_000, 250_000),
    ]
    assert all({"name", "ph", "pid"} <= event.keys() for event in events)
    file.file.close()


def test_a_run_that_goes_on_gives_new_processes_rows_that_no_process_had_before(tmp_path):
    path = tmp_path / "trace.json"
    for pid in (11, 22):
        file = TraceFile(path)
        file.write([Span(f"learner 0 (pid {pid})", "update", time.time(), 1.0), Span("inline", "x", time.time(), 1.0)])
        file.file.close()
    events = events_of(path)
    names = [(event["pid"], event["args"]["name"]) for event in events if event["name"] == "process_name"]
    assert names == [(0, "command"), (1, "learner 0 (pid 11)"), (2, "inline"), (3, "learner 0 (pid 22)")]
    assert [event["pid"] for event in events if event["ph"] == "X"] == [1, 2, 3, 2]
    assert sum(event["name"] == "begins" for event in events) == 2


def test_a_run_that_was_killed_within_any_line_goes_on_with_a_readable_trace(tmp_path):
    path = tmp_path / "trace.json"
    file = TraceFile(path)
    file.write([Span("learner 0", "update", 10.0, 1.0)])
    file.file.close()
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        again = TraceFile(path)
        again.write([Span("learner 1", "update", 11.0, 1.0)])
        again.file.close()
        events = events_of(path)
        rows = rows_of(events)
        assert len(rows) == sum(event["name"] == "process_name" for event in events), "a number was given twice"
        assert rows[events[-1]["pid"]] == "learner 1"
