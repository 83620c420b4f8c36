"""The smoke run in one process: golden losses, nothing left to do, and every logged key explained in the docs.

Its students are evaluated while they train, which must not change a bit of what they learn.
"""

import itertools
import json
from pathlib import Path

import pytest

import settings
import train
from cluster.autoscale.loop import Autoscaling
from cluster.autoscale.meter import Meter
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.launch import launch, preflight
from cluster.pool.slots import Slots
from cluster.pool.training_evaluation import TrainingEvaluation
from cluster.pool.workload import Workload
from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import stage_spec
from cluster.supply.wire import BadWindow
from tests.docs.documented import metric_keys, pattern
from tests.fakes.small_runs import StandingPool
from tests.golden.smoke_losses import GOLDEN, losses


def logged_by(config):
    with open(f"{config.run_dir}/metrics.jsonl") as file:
        return {key for line in file for key in json.loads(line)}


def run(*arguments):
    config = settings.load(["cluster=inline", *arguments])
    preflight(config)
    return launch(train.loop, config)


def refused(config):
    """What the supply tells of a window that was refused."""
    supply = make_supply(stage_spec("dmd", config))
    supply.refuse(BadWindow("not_finite", "a window with NaN"))
    return supply.metrics().keys()


def scaled(config):
    """What a pool that sizes itself tells, once a window was made and taken."""
    seconds = itertools.count(step=10.0)
    meter = Meter(1.0, clock=lambda: next(seconds))
    autoscaling = Autoscaling(AutoscaleConfig(measured_s=1.0), meter, config.run_dir)
    autoscaling.meter.take(1)
    autoscaling.meter.dispatch(1)
    autoscaling.meter.end(1, 1.0)
    autoscaling.look(1, make_supply(stage_spec("dmd", config)).buffer, "dmd")
    return autoscaling.metrics.keys()


def evaluated_on_ray(config):
    """What an evaluation beside the pool tells, whatever its process does."""
    evaluation = TrainingEvaluation(config.cluster, print, start=lambda cluster: None)
    evaluation.begin(stage_spec("dmd", config).evaluation)
    return evaluation.metrics().keys()


def pool_metrics():
    meter = Meter(20.0)
    return Workload(Slots(StandingPool(1), meter, {}, print), meter).metrics()


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """The configuration of a whole smoke run in this process."""
    evaluated = ["evaluation.every=2", "evaluation.prompts=1", "evaluation.frames=36", "tensorboard=true"]
    return run("preset=smoke", f"run_dir={tmp_path_factory.mktemp('smoke')}/run", *evaluated)


@pytest.mark.slow
def test_the_smoke_run_gives_the_golden_losses_bit_by_bit(smoke_run):
    golden = json.loads(GOLDEN.read_text())
    for row, expected in zip(losses(Path(smoke_run.run_dir)), golden, strict=True):
        assert row == expected, f"stage {row['stage']}, step {row['step']}"


@pytest.mark.slow
def test_the_same_command_again_has_nothing_left_to_do(smoke_run):
    before = Path(smoke_run.run_dir, "metrics.jsonl").read_text()
    assert [json.loads(line)["stage"] for line in before.splitlines()] == [
        stage for stage in ("teacher", "ode", "dmd", "grpo") for _ in range(4)
    ]
    run("preset=smoke", f"run_dir={smoke_run.run_dir}")
    assert Path(smoke_run.run_dir, "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_each_evaluated_student_has_its_folder_and_each_stage_its_best(smoke_run):
    folder = Path(smoke_run.run_dir)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    logged = {(line["stage"], line["step"]): line["evaluation/step"] for line in lines if "evaluation/step" in line}
    assert logged == {(stage, step): step - step % 2 for stage in ("dmd", "grpo") for step in (1, 2, 4)}
    for stage in ("dmd", "grpo"):
        summaries = sorted((folder / "evaluation" / stage).glob("step_*/summary.json"))
        assert [json.loads(file.read_text())["step"] for file in summaries] == [0, 2, 4]
        assert (folder / stage / "best.safetensors").is_file()
    assert list((folder / "tensorboard").glob("events.*"))


@pytest.fixture(scope="module")
def logged(smoke_run):
    """Keys by source: the smoke run, both halves of stage dmd alone, and what only a pool on Ray logs."""
    alone = ["preset=smoke", f"run_dir={smoke_run.run_dir}", "stage=dmd", "debug.count=8"]
    return {
        "smoke": logged_by(smoke_run),
        "rollout_only": logged_by(run(*alone, "debug.rollout_only=true")),
        "learner_only": logged_by(run(*alone, "debug.learner_only=true")),
        "refused": set(refused(smoke_run)),
        "pool": set(pool_metrics()),
        "autoscale": set(scaled(smoke_run)),
        "evaluation": set(evaluated_on_ray(smoke_run)),
    }


@pytest.mark.slow
def test_every_key_that_is_logged_is_explained(logged):
    patterns = [pattern(key) for key in metric_keys()]
    for source, keys in logged.items():
        unknown = sorted(key for key in keys if not any(p.fullmatch(key) for p in patterns))
        assert not unknown, f"{source} logs {unknown}: explain them in docs/reference/metrics.md"


@pytest.mark.slow
def test_every_key_that_is_explained_is_logged(logged):
    keys = set().union(*logged.values())
    missing = sorted(key for key in metric_keys() if not any(pattern(key).fullmatch(k) for k in keys))
    assert not missing, f"nothing logs {missing}: take them out of docs/reference/metrics.md"
