"""Find the costs of a block and a window: given, measured, or estimated from a device's operations."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from cluster.config.devices import DEVICES
from cluster.config.plan_config import COSTS, PlanConfig
from cluster.planning import memory, placement
from cluster.planning.flops import image_latent_flops, rollout_flops, seconds, window_flops
from cluster.planning.run_shape import RunShape
from cluster.planning.simulator import Pace
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.user_paths import user_path

PUBLISH_S_PER_BYTE = 0.13e-9
"""Time that handing over takes from the learner: benchmarks/weight_sync, 65 ms for 500 MB on two CPU cores."""


@dataclass(frozen=True)
class Cost:
    """Holds seconds on one GPU, and their source."""

    seconds: float
    source: str


def find_costs(plan: PlanConfig, work: RunShape) -> dict[str, Cost]:
    """Find every cost by its key in PlanConfig: given there, else measured, else from the table of the device.

    Raises ConfigError for a file that cannot be used, and for a cost that is both given and in the file.
    """
    device = DEVICES[work.expected_device]
    table = f"{device.sustained:.0%} of {device.peak_flops / 1e12:.4g} TFLOP/s (device_name={work.expected_device})"
    costs = {name: Cost(value, f"table: {table}") for name, value in table_costs(work).items()}
    handing_over = f"{PUBLISH_S_PER_BYTE * 1e9:g} s for each GB of weights (benchmarks/weight_sync)"
    costs["publish_s"] = replace(costs["publish_s"], source=handing_over)
    if plan.costs is not None:
        measured, source = read_costs(user_path(plan.costs, "plan.costs"), work)
        for name in (name for name in measured if getattr(plan, name) is not None):
            raise ConfigError(
                f"plan.{name}",
                getattr(plan, name),
                f"plan.costs={plan.costs} holds {measured[name]:.4g} too",
                "leave one of them out",
            )
        costs |= {name: Cost(value, source) for name, value in measured.items()}
    given = {name: getattr(plan, name) for name in COSTS}
    return costs | {name: Cost(value, f"plan.{name}") for name, value in given.items() if value is not None}


def table_costs(work: RunShape) -> dict[str, float]:
    """Compute costs by the operations of every part, at the share of its peak that the device sustains."""
    student, rollout = work.student, work.rollout
    blocks = rollout.frames // student.block_frames
    # Actors that share a GPU share its speed, whatever their shares; an actor with several GPUs uses one of them.
    actor = min(1.0, 1 / placement.processes_per_gpu(placement.rollout(work.cluster)))
    block = rollout.batch * rollout_flops(student, rollout.frames) / blocks
    cut = image_latent_flops(student, work.frames("dmd")[1]) if student.in_wan_world else 0.0
    window = window_flops(work, "dmd")
    weights = memory.parameters(student.wan) * memory.BYTES[work.rollout.dtype]
    return {
        "block_s": seconds(work, block, 1) / actor,
        "cut_s": seconds(work, cut, 1) / actor,
        "student_window_s": seconds(work, window.student, 1),
        "critic_window_s": seconds(work, window.critic, 1),
        "publish_s": weights * PUBLISH_S_PER_BYTE,
    }


def pace(costs: dict[str, Cost], work: RunShape) -> Pace:
    """Compute the pace of actors and of a learner whose ranks share each batch."""
    share = work.dmd.batch_size / work.cluster.learner_ranks
    return Pace(
        block_s=costs["block_s"].seconds,
        cut_s=costs["cut_s"].seconds,
        student_s=share * costs["student_window_s"].seconds,
        critic_s=share * costs["critic_window_s"].seconds,
        publish_s=costs["publish_s"].seconds,
    )


# -- measured ----------------------------------------------------------------------------------------------------------


LEAST_UPDATES = 5
"""Updates of a run from which costs are taken."""
_STUDENT = tuple(f"student.{field.name}" for field in fields(StudentConfig))
_SHAPING = ("teacher_model", "window.frames", "window.burn_in_frames", "rollout.batch", "dmd.replay")
_SPEED = (
    "rollout.dtype",
    "rollout.compile",
    "learner.micro_batch",
    "learner.checkpoint_activations",
    "learner.keep_attention",
    "learner.compile",
    "learner.dtype",
    "learner.teacher_dtype",
    "learner.teacher_offload",
    "learner.lora_rank",
    "cluster.sequence_ranks",
)
"""Keys that decide how fast the same work is done."""


@dataclass(frozen=True)
class _Record:
    """Holds the values of one entry in a file of costs."""

    path: Path
    place: str
    values: dict[str, Any]

    def value(self, name: str) -> Any:
        """Read by a dotted name. Raises ConfigError for one that is missing."""
        value: Any = self.values
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                problem = f"{self.place} has no {name}, so another version may have written it"
                raise ConfigError("plan.costs", self.path, problem, "measure again")
            value = value[part]
        return value

    def number(self, name: str, positive: bool = False) -> float:
        """Read a finite number of 0 or above, or above 0 if `positive`. Raises ConfigError for anything else."""
        value = self.value(name)
        valid = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf
        if not valid or (positive and not value):
            problem = (
                f"{self.place} has {name} = {value!r:.40}, not a number {'above' if positive else 'of at least'} 0"
            )
            raise ConfigError("plan.costs", self.path, problem, "measure again")
        return value

    def check_alike(self, planned: dict[str, Any]) -> None:
        """Raise ConfigError where a value is not the one that is planned."""
        for name, value in planned.items():
            if (measured := self.value(name)) != value:
                problem = f"measured with {name} = {measured!r:.60}, and {value!r:.60} is planned"
                raise ConfigError("plan.costs", self.path, problem, "measure again")


def read_costs(path: Path, work: RunShape) -> tuple[dict[str, float], str]:
    """Read the costs of runs of this shape from a file, and describe their source.

    Raises ConfigError for a file that is none, or is of another shape of run.
    """
    try:
        text = path.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1]  # a run that is killed, or still writes, may leave half a line
        read = [(number, json.loads(line)) for number, line in enumerate(complete.split("\n"), 1) if line.strip()]
    except OSError as error:
        raise ConfigError("plan.costs", path, f"it cannot be read ({error.strerror})", "name a file") from error
    except ValueError as error:
        raise ConfigError("plan.costs", path, f"no file of JSON lines ({error})", "name metrics.jsonl") from error
    lines = [_Record(path, f"line {number}", line) for number, line in read if isinstance(line, dict)]
    if metrics := [line for line in lines if line.values.get("stage") == "dmd"]:
        return _from_run(path, metrics, work)
    rollouts = [line for line in lines if line.values.get("name") == "rollout_fps"]
    if not rollouts:
        problem = "it holds neither metrics of stage dmd nor lines of benchmarks/rollout_fps"
        raise ConfigError("plan.costs", path, problem, "name another file")
    # The benchmark makes one video; several at once are taken to cost as much as one after the other.
    line, student, rollout = rollouts[-1], work.student, work.rollout
    line.check_alike(
        {
            "config.model": student.model,
            "config.latent": list(student.frame_shape),
            "config.steps": len(student.timesteps),
            "config.attention_frames": student.attention_frames,
            "config.dtype": rollout.dtype,
            "config.compile": rollout.compile,
        }
    )
    block_ms = line.number("block_ms", positive=True)
    return {"block_s": rollout.batch * block_ms / 1000}, f"rollout_fps on {line.value('device')} in {path}"


def _from_run(path: Path, lines: Sequence[_Record], work: RunShape) -> tuple[dict[str, float], str]:
    """Divide the times at work by their blocks and windows; intervals across a restart are left out."""
    try:
        settings = yaml.safe_load(path.with_name("config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = f"it needs the run's config.yaml in its folder ({type(error).__name__})"
        raise ConfigError("plan.costs", path, problem, "copy it there") from error
    if not isinstance(settings, dict):
        raise ConfigError("plan.costs", path, "the config.yaml in its folder is empty", "restore it, or measure again")
    run = _Record(path, "the config.yaml in its folder", settings)
    if run.value("cluster.kind") == "inline":
        raise ConfigError("plan.costs", path, "halves of an inline run take turns", "measure with cluster=ray")
    run.check_alike({name: reduce(getattr, name.split("."), work) for name in (*_STUDENT, *_SHAPING, *_SPEED)})
    pairs = [
        (line, line.number("time") - before.number("time"))
        for before, line in pairwise(lines)
        if line.number("step") == before.number("step") + 1 and "waited/begin_s" not in line.values
    ]
    if len(pairs) < LEAST_UPDATES:
        problem = f"it has {len(pairs)} updates after the first, and {LEAST_UPDATES} are needed"
        raise ConfigError("plan.costs", path, problem, "measure a longer run")
    blocks = sum(line.number("rollout/blocks") for line, _ in pairs)
    rolled_s = sum(line.number("rollout/busy_share") * line.number("rollout/actors") * s for line, s in pairs)
    learnt_s = sum(line.number("learner/busy_share") * s for line, s in pairs)
    sums = {"rollout/blocks": blocks, "rollout/busy_share": rolled_s, "learner/busy_share": learnt_s}
    for name, amount in sums.items():
        if not amount > 0:
            raise ConfigError("plan.costs", path, f"it has no update with {name} above 0", "measure again")
    # An update's time is known only as a whole: it is shared out as the operations are.
    window = window_flops(work, "dmd")
    update = run.number("dmd.batch_size", positive=True) * (
        window.student + run.number("dmd.critic_updates", positive=True) * window.critic
    )
    window_s = learnt_s * run.number("cluster.learner_ranks", positive=True) / (len(pairs) * update)
    published_s = [line.number("waited/publish_s") for line, _ in pairs if "waited/publish_s" in line.values]
    costs = {
        "block_s": rolled_s * work.rollout.batch / blocks,
        "cut_s": 0.0,  # is in the actors' time already
        "student_window_s": window.student * window_s,
        "critic_window_s": window.critic * window_s,
        "publish_s": sum(published_s) / len(pairs),
    }
    return costs, f"measured in {len(pairs)} updates of {path}"
