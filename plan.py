"""How many rollout GPUs a learner wants, what the stage then takes and costs, and whether it fits: before renting."""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace

from cluster.config.plan_config import PlanConfig
from models.terminal import answer_help, readable_in_part

USAGE = """python plan.py preset=wan_1_3b plan.learner_gpus=8 [key=value ...]

Plays stage dmd through in simulated time, from measured costs or from a table. Starts nothing, needs no GPU and no Ray.
  python plan.py preset=wan_1_3b plan.learner_gpus=8 rollout.frames=402 plan.plot=plan.png
  python plan.py preset=wan_1_3b plan.learner_gpus=8 plan.block_s=0.71 'plan.rollout_gpus=[8,16,24,32]'
  python plan.py preset=tiny plan.costs=runs/tiny/metrics.jsonl device_name=cpu
All keys of train.py describe the run that is planned; train.py --help lists them."""


def explain() -> str:
    """The text of --help."""
    keys = [
        (f"plan.{field.name}", getattr(PlanConfig(), field.name), field.metadata["doc"]) for field in fields(PlanConfig)
    ]
    width = max(len(name) for name, _, _ in keys)
    return "\n".join([USAGE, "", *(f"  {n:<{width}}  {doc} [{'none' if v is None else v}]" for n, v, doc in keys)])


if __name__ == "__main__":
    answer_help(explain)

# ruff: noqa: E402  (help should not wait for what takes seconds to import)
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import settings
from cluster.config.run_config import Config
from cluster.errors import RunFailed
from cluster.planning.cost_table import find_costs, pace
from cluster.planning.memory_check import check_fit
from cluster.planning.plan_picture import draw
from cluster.planning.plan_report import report
from cluster.planning.pool_sizes import sizes
from models.user_paths import user_path


def read_arguments(arguments: Sequence[str]) -> tuple[PlanConfig, Config]:
    """The keys of this script, and the run that is planned. Raises ValueError, in one line with the key to change."""
    own = [argument for argument in arguments if argument.startswith("plan.")]
    for argument in own:
        if "=" not in argument:
            raise ValueError(f'"{argument}" cannot be read; write key=value; --help lists every key')
    try:
        given = OmegaConf.from_dotlist([argument.removeprefix("plan.") for argument in own])
        plan = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PlanConfig), given))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        where = f"plan.{getattr(error, 'full_key', '') or ''}".rstrip(".")
        raise ValueError(f"{where}: {str(error).splitlines()[0]}; --help lists every key") from error
    run = [argument for argument in arguments if argument not in own]
    if plan.learner_gpus is not None:
        ranks = f"cluster.learner_ranks={plan.learner_gpus}"
        for argument in run:
            if argument.startswith("cluster.learner_ranks=") and argument != ranks:
                raise ValueError(f"plan.learner_gpus={plan.learner_gpus} and {argument} differ; leave one of them out")
        run = [*run, ranks]
    config = _loaded(run, plan)
    if "dmd" not in config.stages:
        raise ValueError(f"stage is {config.stages}, and it is stage dmd that has two halves to plan; set stage=dmd")
    if config.cluster.kind == "inline":
        raise ValueError("cluster=inline is one process, in which nobody waits for anybody; set cluster=ray")
    return plan, replace(config, prompts=None)  # which prompts they are takes no time


def _loaded(run: Sequence[str], plan: PlanConfig) -> Config:
    """Of the learner's ranks, the key that was typed is named."""
    try:
        return settings.load(run)
    except ValueError as error:
        if plan.learner_gpus is None:
            raise
        raise ValueError(str(error).replace("cluster.learner_ranks", "plan.learner_gpus")) from error


def main(arguments: Sequence[str]) -> None:
    """Print the plan, and draw it where asked. Raises ValueError, in one line with the key to change."""
    plan, config = read_arguments(arguments)
    picture = None if plan.plot is None else user_path(plan.plot, "plan.plot")
    if picture is not None and not picture.parent.is_dir():
        raise ValueError(f"plan.plot={plan.plot}: there is no folder {picture.parent}; make it, or give another file")
    check_fit(config)
    found = find_costs(plan, config)
    tried = sizes(config, pace(found, config), plan, lambda what: print(f"playing through: {what}", file=sys.stderr))
    print(report(config, plan, found, tried))
    if picture is not None:
        draw(tried, picture)
        print(f"\npicture: {plan.plot}")


if __name__ == "__main__":
    try:
        with readable_in_part():
            main(sys.argv[1:])
    except (ValueError, RunFailed) as error:  # the second is what the stage itself would stop for
        print(f"plan.py: {error}", file=sys.stderr)
        sys.exit(2)
