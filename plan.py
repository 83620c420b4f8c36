"""Compute how many rollout GPUs a learner needs, what the stage then takes and costs, and whether it fits.

python plan.py preset=wan_1_3b plan.learner_gpus=8 [key=value ...]

Plays stage dmd through in simulated time, from measured costs or from a table. Starts nothing, needs no GPU and no Ray.
  python plan.py preset=wan_1_3b plan.learner_gpus=8 rollout.frames=402 plan.plot=plan.png
  python plan.py preset=wan_1_3b plan.learner_gpus=8 plan.block_s=0.71 'plan.rollout_gpus=[8,16,24,32]'
  python plan.py preset=tiny plan.costs=runs/tiny/metrics.jsonl device_name=cpu
All keys of train.py describe the run that is planned.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import settings
from cluster.config.plan_config import PlannedRun
from models.errors import ConfigError
from models.user_paths import user_path


def read_plan(arguments: Sequence[str]) -> PlannedRun:
    """Read the plan and the run that it is about. Raises ConfigError."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    gpus, ranks = given.get("plan.learner_gpus"), given.get("cluster.learner_ranks")
    if gpus is not None:
        if ranks not in (None, gpus):
            problem = f"cluster.learner_ranks={ranks} is given too"
            raise ConfigError("plan.learner_gpus", gpus, problem, "leave one of them out")
        arguments = [*arguments, *([] if ranks else [f"cluster.learner_ranks={gpus}"])]
    try:
        run = settings.load(arguments, schema=PlannedRun)
    except ConfigError as error:
        if gpus is None or error.key != "cluster.learner_ranks":
            raise
        raise ConfigError("plan.learner_gpus", gpus, error.problem, "write another number of GPUs") from error
    if "dmd" not in run.stages:
        raise ConfigError("stage", run.stages, "only stage dmd has two halves to plan", "write stage=dmd")
    if run.cluster.kind == "inline":
        raise ConfigError("cluster", "inline", "one process has nothing to balance", "write cluster=ray")
    if run.plan.plot is not None and not user_path(run.plan.plot, "plan.plot").parent.is_dir():
        raise ConfigError(
            "plan.plot", run.plan.plot, "its folder does not exist", "make the folder, or change the path"
        )
    return replace(run, prompts=None)  # which prompts they are takes no time


def main(run: PlannedRun) -> None:
    """Print the plan, and draw it if plan.plot names a picture. Raises ConfigError."""
    from cluster.planning.costs import find_costs, pace
    from cluster.planning.memory_check import check_memory
    from cluster.planning.pool_sizes import sizes
    from cluster.planning.run_shape import run_shape_of
    from cluster.planning.simulator import simulate
    from reports.plan_report import draw_plan, plan_text

    work = run_shape_of(run)
    check_memory(work)
    costs = find_costs(run.plan, work)
    speed = pace(costs, work)

    def progress(pool: str) -> None:
        print(f"simulating: {pool}", file=sys.stderr)

    tried = sizes(work, speed, run.plan, lambda actors, updates: simulate(run, speed, actors, updates), progress)
    print(plan_text(work, run.plan, costs, tried))
    if run.plan.plot is not None:
        draw_plan(tried, user_path(run.plan.plot, "plan.plot"))
        print(f"\npicture: {run.plan.plot}")


if __name__ == "__main__":
    settings.command(main, PlannedRun, __doc__, read_plan, groups=None)
