"""What is written down and told of an autoscaled pool, and the hours it has cost."""

import json
import re

import pytest

from cluster.autoscale.loop import FILE, Autoscaling, read_looks
from cluster.autoscale.meter import Meter
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import stage_spec
from cluster.runs.trace import Reading, TraceFile
from tests.fakes.small_runs import small


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def scaled(tmp_path, **keys):
    config = small()
    config.run_dir = str(tmp_path)
    config.autoscale = AutoscaleConfig(enabled=True, measured_s=20.0, grow_after_s=20.0, **keys)
    clock = Clock()
    meter = Meter(20.0, clock)
    autoscaling = Autoscaling(config.autoscale, meter, config.run_dir, clock=lambda: 1e9 + clock.now)
    return config, clock, meter, autoscaling


def starve(meter, clock, seconds, size):
    """Actors need 2 s for a window and the learner half a second; they work as many as are there."""
    meter.change({"running": size - meter.levels["running"]})
    for _ in range(seconds // 4):
        for _ in range(size):
            meter.dispatch(2)
        with meter.time("waiting"):
            clock.now += 4.0 - size
        meter.take(2 * size)
        clock.now += size
        for _ in range(size):
            meter.end(2, 4.0)


def test_every_look_is_in_the_file_the_trace_and_the_metrics_and_a_change_with_its_reason_on_the_terminal(tmp_path):
    config, clock, meter, autoscaling = scaled(tmp_path)
    buffer, trace = make_supply(stage_spec("dmd", config)).buffer, TraceFile(tmp_path / "trace.json")
    lines = []
    for _ in range(6):
        starve(meter, clock, 8, size=1)
        look = autoscaling.look(1, buffer, "dmd")
        autoscaling.write(look.entry)
        trace.write(look.readings)
        lines += [look.line] if look.line else []
        if look.size > 1:
            break
    trace.file.close()
    seen = read_looks(tmp_path / FILE)
    decision = seen[-1]["decision"]
    assert (decision["size"], decision["kind"], decision["needed"]) == (2, "grow", 4)
    (line,) = lines
    assert line.endswith(decision["reason"])
    assert re.findall(r"[\d.]+", line) == ["1", "2", "75", "0.0", "1.0", "2", "0.5"], line
    assert autoscaling.metrics["autoscale/wanted"] == 2 and autoscaling.metrics["autoscale/needed"] == 4
    events = json.loads((tmp_path / "trace.json").read_text() + "]")
    curves = [event for event in events if event["ph"] == "C" and event["name"] == "actors"]
    assert [event["args"] for event in curves][-1] == {"running": 1, "wanted": 2}
    assert len(curves) == len(seen) and all(isinstance(reading, Reading) for reading in look.readings)


def test_a_bound_that_holds_the_pool_is_told_once(tmp_path):
    config, clock, meter, autoscaling = scaled(tmp_path, maximum=1)
    lines = []
    for _ in range(20):
        starve(meter, clock, 8, size=1)
        lines.append(autoscaling.look(1, make_supply(stage_spec("dmd", config)).buffer, "dmd").line)
    (line,) = [line for line in lines if line is not None]
    assert all(fact in line for fact in (" 1 ", "75%", "autoscale.maximum"))


def test_hours_are_counted_on_where_the_run_folder_has_them_and_a_line_that_was_cut_off_does_not_count(tmp_path):
    config, clock, meter, autoscaling = scaled(tmp_path)
    meter.change({"held": 2})
    clock.now += 7200.0
    autoscaling.write(autoscaling.look(2, make_supply(stage_spec("dmd", config)).buffer, "dmd").entry)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"gpu_hours": 99, "decis')
    assert [seen["gpu_hours"] for seen in read_looks(tmp_path / FILE)] == pytest.approx([4.0])
    again = Autoscaling(config.autoscale, Meter(20.0, clock), config.run_dir)
    assert again.spent_before == pytest.approx(4.0)
    again.meter.change({"held": 1})
    clock.now += 3600.0
    look = again.look(1, make_supply(stage_spec("dmd", config)).buffer, "dmd")
    assert look.entry["gpu_hours"] == pytest.approx(5.0)
    again.write(look.entry)
    assert [seen["gpu_hours"] for seen in read_looks(tmp_path / FILE)] == pytest.approx([4.0, 5.0])
