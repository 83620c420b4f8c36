"""Where costs come from: keys, a run, a benchmark, or the operations that a device can do."""

import errno
import json
import os
import re
from dataclasses import asdict, replace
from functools import cache

import pytest
import yaml

import settings
from cluster.config.devices import DEVICES
from cluster.config.plan_config import COSTS, PlanConfig
from cluster.planning import costs, flops
from cluster.planning.costs import table_costs
from cluster.planning.run_shape import run_shape_of
from cluster.planning.simulator import simulate
from models.errors import ConfigError
from tests.fakes.commands import replaced

WAN = ["preset=wan_1_3b", "cluster.learner_ranks=8"]
BLOCK = {"model": "wan_1_3b", "latent": [16, 60, 104], "steps": 4, "attention_frames": 21} | {
    "dtype": "bfloat16",
    "compile": True,
}
"""What benchmarks/rollout_fps says that it measured."""
TINY = ["preset=tiny", "device_name=cpu", "rollout.batch=2", "cluster.learner_ranks=2"]


def refused(file, config):
    """Read a file that must be refused under its key; returns the problem."""
    with pytest.raises(ConfigError) as error:
        read_costs(file, config)
    assert (error.value.key, error.value.value) == ("plan.costs", file) and "\n" not in str(error.value)
    return error.value.problem


def find_costs(plan, config):
    return costs.find_costs(plan, run_shape_of(config))


def pace(known, config):
    return costs.pace(known, run_shape_of(config))


def read_costs(path, config):
    return costs.read_costs(path, run_shape_of(config))


@cache
def wan():
    return settings.load(WAN)


@cache
def tiny():
    return settings.load(TINY)


@cache
def lines_of_nine():
    """Of a run of the tiny world."""
    paced = pace(find_costs(PlanConfig(), tiny()), tiny())
    return list(lines_of(tiny(), paced, simulate(tiny(), paced, 5, 9)))


def written(folder, lines, config=None):
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def lines_of(config, paced, seen, shift_s=1e9):
    """What a run writes that goes as `seen` does."""
    ended_s, worked_s = [0.0, *seen.ended_s], [0.0, *seen.worked_s]
    for i in range(1, len(ended_s)):
        interval_s = ended_s[i] - ended_s[i - 1]
        away_s = seen.waited_s[i - 1] + paced.publish_s
        at_work_s = worked_s[i] - worked_s[i - 1]
        yield {
            "time": shift_s + ended_s[i],
            "stage": "dmd",
            "step": i,
            "learner/busy_share": 1 - away_s / interval_s,
            "waited/publish_s": paced.publish_s,
            "rollout/busy_share": at_work_s / (seen.actors * interval_s),
            "rollout/actors": seen.actors,
            "rollout/blocks": at_work_s / paced.block_s * config.rollout.batch,
        }


def test_the_table_is_operations_over_what_the_device_sustains():
    config, device = wan(), DEVICES["h100"]
    found, per_s = table_costs(run_shape_of(config)), device.peak_flops * device.sustained
    by_name = {line.name: line.value for line in flops.operations(run_shape_of(config))}
    assert found["block_s"] == pytest.approx(by_name["one rollout"] / 134 / per_s)
    assert found["cut_s"] == pytest.approx(by_name["image latent of a mid-video window"] / per_s)
    assert found["student_window_s"] == pytest.approx(by_name["one window of the student"] / per_s)
    assert found["critic_window_s"] == pytest.approx(by_name["one window of the critic"] / per_s)
    halved = settings.load([*WAN, "cluster.actor_gpus=0.5", "rollout.batch=2", "buffer.windows=400"])
    assert table_costs(run_shape_of(halved))["block_s"] == pytest.approx(4 * found["block_s"]), "half a GPU, two videos"
    assert table_costs(run_shape_of(settings.load(["preset=tiny"])))["cut_s"] == 0


def test_ranks_share_a_batch_out():
    found = find_costs(PlanConfig(student_window_s=3.0, critic_window_s=1.0, block_s=0.5), wan())
    assert pace(found, wan()).student_s == 3.0 and pace(found, wan()).critic_s == 1.0
    on_four = settings.load(["preset=wan_1_3b", "cluster.learner_ranks=4"])
    assert pace(found, on_four).student_s == 6.0 and pace(found, on_four).block_s == 0.5


def test_a_given_cost_goes_before_the_table_and_says_so():
    found = find_costs(PlanConfig(block_s=0.71), wan())
    assert found["block_s"].seconds == 0.71 and found["block_s"].source == "plan.block_s"
    assert found["critic_window_s"].source.startswith("table: 40%") and set(found) == set(COSTS)


def test_costs_read_from_a_run_are_those_it_was_made_with(tmp_path):
    config = tiny()
    known = find_costs(PlanConfig(block_s=0.8, student_window_s=2.1, critic_window_s=1.4, publish_s=0.2), config)
    paced = pace(known, config)
    seen = simulate(config, paced, 5, 30)
    lines = list(lines_of(config, paced, seen))
    restarted = [*lines[:12], *({**line, "time": line["time"] + 500} for line in lines[9:])]
    resumed = [*lines[:12], lines[12] | {"waited/begin_s": 4.0}, *lines[13:]]
    resumed = [*resumed[:12], *(line | {"time": line["time"] + 500} for line in resumed[12:])]
    planned = settings.load([*TINY[:-1], "cluster.learner_ranks=4", "rollout.frames=120", "cluster.rollout_actors=9"])
    for measured in (lines, restarted, resumed):
        found, source = read_costs(written(tmp_path, [{"stage": "ode", "step": 1}, *measured], config), planned)
        assert found["block_s"] == pytest.approx(0.8) and found["publish_s"] == pytest.approx(0.2)
        update_s = found["student_window_s"] + config.dmd.critic_updates * found["critic_window_s"]
        assert update_s == pytest.approx(2.1 + config.dmd.critic_updates * 1.4)
        assert found["student_window_s"] / found["critic_window_s"] == pytest.approx(
            flops.window_flops(run_shape_of(config), "dmd").student
            / flops.window_flops(run_shape_of(config), "dmd").critic
        )
        assert found["cut_s"] == 0 and "updates of" in source


def test_a_line_of_the_rollout_benchmark_gives_the_block_of_one_video(tmp_path):
    line = {"name": "rollout_fps", "block_ms": 700.0, "device": "NVIDIA H100", "config": BLOCK}
    file = written(tmp_path, [line | {"block_ms": 1.0}, {"name": "burn_in"}, line])
    found = find_costs(PlanConfig(costs=str(file)), wan())
    assert found["block_s"].seconds == 0.7 and "NVIDIA H100" in found["block_s"].source
    assert found["cut_s"].source.startswith("table")
    two = settings.load([*WAN, "rollout.batch=2", "buffer.windows=400"])
    assert find_costs(PlanConfig(costs=str(file)), two)["block_s"].seconds == 1.4
    problem = refused(file, settings.load([*WAN, "student.height=90", "student.width=160"]))
    assert all(fact in problem for fact in ("config.latent", "[16, 60, 104]", "[16, 90, 160]"))


def test_a_cost_that_is_given_and_measured_is_refused(tmp_path):
    file = written(tmp_path, [{"name": "rollout_fps", "block_ms": 700.0, "device": "x", "config": BLOCK}])
    with pytest.raises(ValueError, match=r"^plan.block_s=0.5: plan.costs=.* holds 0.7"):
        find_costs(PlanConfig(costs=str(file), block_s=0.5), wan())


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (None, os.strerror(errno.ENOENT)),
        ("", "benchmarks/rollout_fps"),
        ("{}{\n", "JSON"),
        ("[1, 2]\n3\n", "benchmarks/rollout_fps"),
        ('{"name": "burn_in"}\n', "benchmarks/rollout_fps"),
        ('{"stage": "dmd", "step": 1, "time": 1.0}\n', "config.yaml"),
    ],
)
def test_a_file_without_costs_is_refused(tmp_path, text, fact):
    file = tmp_path / "m.jsonl"
    if text is not None:
        file.write_text(text)
    assert fact in refused(file, tiny())


def test_half_a_line_at_the_end_is_left_out(tmp_path):
    file = written(tmp_path, [{"name": "rollout_fps", "block_ms": 700.0, "device": "x", "config": BLOCK}])
    file.write_text(file.read_text() + '{"name": "rollout_fps", "blo')
    assert read_costs(file, wan())[0] == {"block_s": 0.7}


def test_a_run_of_another_shape_an_inline_one_and_a_short_one_are_refused(tmp_path):
    config, lines = tiny(), lines_of_nine()
    file = written(tmp_path, lines, config)
    for other, measured, planned in (
        ("rollout.batch=4", "2", "4"),
        ("learner.checkpoint_activations=true", "False", "True"),
        ("rollout.dtype=bfloat16", "'float32'", "'bfloat16'"),
        ("rollout.compile=true", "False", "True"),
        ("student.attention_frames=9", "12", "9"),
    ):
        problem = refused(file, settings.load(replaced(TINY, other)))
        assert all(fact in problem for fact in (other.partition("=")[0], f" {measured}", f" {planned}"))
    assert re.findall(r"\d+", refused(written(tmp_path, lines[:5]), config)) == ["4", "5"]
    inline = [{name: value for name, value in line.items() if "rollout" not in name} for line in lines]
    kind = replace(config, cluster=replace(config.cluster, learner_ranks=1, kind="inline"))
    with pytest.raises(ConfigError) as error:
        read_costs(written(tmp_path, inline, kind), config)
    assert error.value.key == "plan.costs" and "cluster=ray" in error.value.fix


def changed(lines, number, **values):
    """`lines` with `values` in the one that is counted from 1; None takes a key out."""
    line = lines[number - 1] | {name.replace("__", "/"): value for name, value in values.items()}
    kept = {name: value for name, value in line.items() if value is not None}
    return [*lines[: number - 1], kept, *lines[number:]]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"rollout__busy_share": None}, "rollout/busy_share"),
        ({"rollout__blocks": "many"}, "rollout/blocks = 'many'"),
        ({"rollout__actors": True}, "rollout/actors = True"),
        ({"learner__busy_share": float("nan")}, "learner/busy_share = nan"),
        ({"waited__publish_s": [1]}, "waited/publish_s = [1]"),
        ({"step": None}, " step"),
        ({"time": {}}, "time = {}"),
    ],
)
def test_metrics_of_another_version_are_answered_with_the_line_and_its_key(tmp_path, change, fact):
    config, lines = tiny(), lines_of_nine()
    problem = refused(written(tmp_path, changed(lines, 4, **change), config), config)
    assert "line 4 " in problem and fact in problem


def test_a_run_in_which_nobody_worked_is_refused(tmp_path):
    config, lines = tiny(), lines_of_nine()
    for name in ("rollout/blocks", "rollout/busy_share", "learner/busy_share"):
        assert name in refused(written(tmp_path, [line | {name: 0} for line in lines], config), config)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "config.yaml"),
        ("- a list", "config.yaml"),
        ("cluster: ray", "cluster.kind"),
        ("cluster: {kind: ray}", "student.model"),
        ("a: [", "(ParserError)"),
        (b"\xff\xfe", "config.yaml"),
    ],
)
def test_a_config_that_is_none_is_refused_by_what_it_lacks(tmp_path, text, fact):
    file = written(tmp_path, [{"stage": "dmd", "step": 1, "time": 1.0}])
    (tmp_path / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert fact in refused(file, tiny())


@pytest.mark.parametrize(
    ("name", "value", "fact"),
    [
        ("learner.teacher_offload", None, "learner.teacher_offload"),
        ("cluster.sequence_ranks", 2, "cluster.sequence_ranks = 2"),
        ("cluster.learner_ranks", "two", "cluster.learner_ranks = 'two'"),
        ("dmd.batch_size", 0, "dmd.batch_size = 0"),
    ],
)
def test_a_config_of_another_version_is_refused_by_the_key(tmp_path, name, value, fact):
    config, file = tiny(), written(tmp_path, lines_of_nine())
    group, _, key = name.partition(".")
    tree = asdict(config)
    tree[group].pop(key)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(tree if value is None else tree | {group: tree[group] | {key: value}})
    )
    assert fact in refused(file, config)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"config": "a string"}, "config.model"),
        ({"config": BLOCK | {"compile": False}}, "config.compile = False"),
        ({"config": BLOCK | {"dtype": "float32"}}, "config.dtype = 'float32'"),
        ({"block_ms": None}, "block_ms = None"),
        ({"block_ms": 0}, "block_ms = 0"),
    ],
)
def test_a_benchmark_of_another_version_or_speed_is_refused_by_the_key(tmp_path, change, fact):
    line = {"name": "rollout_fps", "block_ms": 700.0, "device": "x", "config": BLOCK} | change
    assert fact in refused(written(tmp_path, [line]), wan())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("learner_gpus", 0, "plan.learner_gpus="),
        ("rollout_gpus", [4, 0], r"plan.rollout_gpus="),
        ("block_s", 0.0, "plan.block_s="),
        ("cut_s", -1.0, "plan.cut_s="),
        ("critic_window_s", float("nan"), "plan.critic_window_s="),
        ("gpu_hour_price", -2.0, "plan.gpu_hour_price="),
        ("budget_gpu_days", 0.0, "plan.budget_gpu_days="),
        ("plot", "plan.pdf", "plan.plot="),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_by_name(key, value, said):
    with pytest.raises(ValueError, match=said):
        PlanConfig(**{key: value})
    assert PlanConfig(cut_s=0.0, publish_s=0.0, gpu_hour_price=0.0)
