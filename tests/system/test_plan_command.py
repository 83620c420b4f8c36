"""plan.py as a user types it."""

import re
import subprocess
import sys

import pytest
from PIL import Image

import plan
import settings
from cluster.config.plan_config import PlanConfig
from cluster.planning.costs import find_costs, pace
from cluster.planning.pool_sizes import cheapest, sizes
from cluster.planning.run_shape import run_shape_of
from cluster.planning.simulator import simulate
from reports.plan_report import assumptions, plan_text, video_s
from tests.fakes.commands import mistake

EIGHT = ["preset=wan_1_3b", "plan.learner_gpus=8", "plan.updates=20", "dmd.steps=40"]
NOTED = "import atexit, sys; atexit.register(lambda: print('{}' in sys.modules)); "


def typed(*arguments, code=""):
    command = [sys.executable, "-c", code + "import runpy; runpy.run_path('plan.py', run_name='__main__')"]
    return subprocess.run([*command, *arguments], cwd=settings.ROOT, capture_output=True, text=True, timeout=300)


def test_it_answers_how_many_rollout_gpus_in_a_sentence_marks_the_row_and_draws_it(tmp_path, capsys):
    plan.main(plan.read_plan([*EIGHT, "rollout.frames=402", f"plan.plot={tmp_path}/plan.png"]))
    text = capsys.readouterr().out
    run = plan.read_plan([*EIGHT, "rollout.frames=402"])
    work = run_shape_of(run)
    speed = pace(find_costs(run.plan, work), work)
    best = cheapest(
        sizes(work, speed, run.plan, lambda n, updates: simulate(run, speed, n, updates), lambda what: None)
    )
    assert re.findall(r"\d+", text)[:4] == ["100", "402", "8", str(best.rollout_gpus)]
    (row,) = (line for line in text.splitlines() if line.strip().startswith("* "))
    assert row.split()[1] == str(best.rollout_gpus) and row.split()[-2] == f"{best.gpu_days:.2f}"
    assert re.search(rf"\b48 .* {best.updates_in(48):,} ", text)
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(2**20)) > 20


def test_every_number_it_rests_on_is_a_printed_line():
    config = settings.load(["preset=wan_1_3b", "cluster.learner_ranks=8"])
    said = "\n".join(assumptions(run_shape_of(config), find_costs(PlanConfig(), run_shape_of(config))))
    for part in (
        r"\b40%",
        r"\b5 .*\b21 ",
        r"\bteacher\b",
        r"\b4\b",
        r"\b5 critic ",
        r"\b48 windows",
        r"\b86% .*\b402 ",
        "buffer.windows",
    ):
        assert re.search(part, said)
    bounded = settings.load(["preset=wan_1_3b", "cluster=h100_32"])
    lines = assumptions(run_shape_of(bounded), find_costs(PlanConfig(), run_shape_of(bounded)))
    assert any(re.search(r"cluster\.gpus=32 .*\b24 ", line) for line in lines) and "cluster.gpus" not in said
    given = PlanConfig(block_s=1.0, cut_s=0.0, student_window_s=1.0, critic_window_s=1.0)
    assert "40%" not in "\n".join(assumptions(run_shape_of(config), find_costs(given, run_shape_of(config))))


def test_the_report_names_memory_wires_and_where_each_cost_comes_from():
    config = settings.load(["preset=wan_1_3b", "cluster.learner_ranks=8", "dmd.steps=20"])
    asked = PlanConfig(block_s=0.71, rollout_gpus=[8], updates=20)
    work = run_shape_of(config)
    found = find_costs(asked, work)
    speed = pace(found, work)
    tried = sizes(work, speed, asked, lambda n, updates: simulate(config, speed, n, updates), lambda what: None)
    lines = {line[2:44].strip(): line[44:].split() for line in plan_text(work, asked, found, tried).splitlines()}
    assert lines["one block of 1 video(s), by an actor"] == ["710.00", "ms", "plan.block_s"]
    assert lines["one learner rank"][:2] == ["28.88", "GB"] and lines["the rollout processes of one GPU"][0] == "14.19"
    pulled = float(lines["weights, to all actors"][0])
    assert pulled == pytest.approx(8 * 2838 * tried[0].rates.updates_per_s, rel=0.01), (
        "MB/s: every version, by every actor"
    )
    taken = float(lines["windows, from there to the learner"][0])
    assert taken == pytest.approx(70 * 16 * 60 * 104 * 4 / 1e6 * tried[0].rates.windows_per_s, rel=0.01)


def test_a_horizon_is_as_long_as_its_video():
    assert video_s(run_shape_of(settings.load(["preset=wan_1_3b"]))) == (402 * 4 - 3) / 16
    assert video_s(run_shape_of(settings.load(["preset=tiny"]))) == 96 / 16


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["plan.learner_gpus=0"], "plan.learner_gpus"),
        (["plan.learner_gpus=5"], "ode.batch_size"),
        (["plan.learner_gpus=4", "cluster.learner_ranks=8"], "plan.learner_gpus"),
        (["plan.rollout_gpus=7"], "plan.rollout_gpus"),
        (["plan.blocks=3"], "plan.blocks"),
        (["plan.block_s=fast"], "plan.block_s"),
        (["plan.block_s"], "plan.block_s"),
        (["rollout.frame=9"], "rollout.frame"),
        (["device_name=b300"], "device_name"),
        (["learner.checkpoint_activations=false"], "learner.checkpoint_activations"),
        (["stage=ode"], "stage"),
        (["cluster=h100_8", "cluster.learner_ranks=8"], "cluster"),
        (["plan.costs=~nouser/m.jsonl"], "plan.costs"),
        (["plan.costs=/not/here.jsonl"], "plan.costs"),
        (["plan.plot=/not/here/plan.png"], "plan.plot"),
    ],
)
def test_a_mistake_is_one_line_with_the_key(arguments, key, capsys):
    line = mistake(capsys, "plan.py", "preset=wan_1_3b", *arguments)
    assert key in line, line


def test_ray_is_not_imported():
    shown = typed("preset=tiny", "plan.updates=2", "plan.rollout_gpus=[1]", code=NOTED.format("ray"))
    assert shown.returncode == 0 and shown.stdout.endswith("False\n")


def test_help_names_the_keys_of_the_plan_and_waits_for_no_torch():
    shown = typed("--help", "plan", code=NOTED.format("torch"))
    assert shown.returncode == 0 and all(f"  {name} " in shown.stdout for name in settings.keys_of(PlanConfig, "plan."))
    assert shown.stdout.endswith("False\n")
