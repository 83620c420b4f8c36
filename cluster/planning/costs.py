"""Find what a block and a window cost: given, measured in a run or a benchmark, or by the operations of a device."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from cluster.config.devices import DEVICES
from cluster.config.plan_config import COSTS, PlanConfig
from cluster.planning import memory, placement
from cluster.planning.flops import critic_window_flops, image_latent_flops, rollout_flops, seconds, student_window_flops
from cluster.planning.run_shape import RunShape
from cluster.planning.simulator import Pace
from models.network_config import StudentConfig
from models.user_paths import user_path

PUBLISH_S_PER_BYTE = 0.13e-9
"""What handing over takes from the learner: benchmarks/weight_sync, 65 ms for 500 MB on two CPU cores."""


@dataclass(frozen=True)
class Cost:
    """Seconds on one GPU, and how they are known."""

    seconds: float
    source: str


def find_costs(plan: PlanConfig, work: RunShape) -> dict[str, Cost]:
    """Every cost by its key in PlanConfig: given there, else measured, else from the table of the expected device.

    Raises ValueError for a file that cannot be used, and for a cost that is both given and in the file.
    """
    found = {name: Cost(value, _table_of(work, name)) for name, value in table_costs(work).items()}
    if plan.costs is not None:
        measured, source = read_costs(user_path(plan.costs, "plan.costs"), work)
        for name in (name for name in measured if getattr(plan, name) is not None):
            raise ValueError(
                f"plan.{name}={getattr(plan, name)} is given, and plan.costs={plan.costs} says {measured[name]:.4g}; "
                "leave one of them out"
            )
        found |= {name: Cost(value, source) for name, value in measured.items()}
    given = {name: getattr(plan, name) for name in COSTS}
    return found | {name: Cost(value, f"plan.{name}") for name, value in given.items() if value is not None}


def table_costs(work: RunShape) -> dict[str, float]:
    """By the operations of every part, at the share of its peak that the device is expected to sustain."""
    student, rollout = work.student, work.rollout
    blocks = rollout.frames // student.block_frames
    # Actors that share a GPU share its speed, whatever each was promised; one with several GPUs uses one of them.
    actor = min(1.0, 1 / placement.processes_per_gpu(placement.rollout(work.cluster)))
    block = rollout.batch * rollout_flops(student, rollout.frames) / blocks
    cut = image_latent_flops(student, work.frames("dmd")[1]) if work.in_wan_world else 0.0
    weights = memory.parameters(student.wan) * memory.BYTES[work.rollout.dtype]
    return {
        "block_s": seconds(work, block, 1) / actor,
        "cut_s": seconds(work, cut, 1) / actor,
        "student_window_s": seconds(work, student_window_flops(work, "dmd"), 1),
        "critic_window_s": seconds(work, critic_window_flops(work, "dmd"), 1),
        "publish_s": weights * PUBLISH_S_PER_BYTE,
    }


def _table_of(work: RunShape, name: str) -> str:
    if name == "publish_s":
        return f"{PUBLISH_S_PER_BYTE * 1e9:g} s for each GB of weights (benchmarks/weight_sync)"
    expected = work.expected_device
    device = DEVICES[expected]
    return f"table: {device.sustained:.0%} of {device.peak_flops / 1e12:.4g} TFLOP/s (device_name={expected})"


def pace(found: dict[str, Cost], work: RunShape) -> Pace:
    """The pace of actors and of a learner whose ranks share each batch."""
    share = work.dmd.batch_size / work.cluster.learner_ranks
    return Pace(
        block_s=found["block_s"].seconds,
        cut_s=found["cut_s"].seconds,
        student_s=share * found["student_window_s"].seconds,
        critic_s=share * found["critic_window_s"].seconds,
        publish_s=found["publish_s"].seconds,
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
    "learner.compile",
    "learner.dtype",
    "learner.teacher_dtype",
    "learner.teacher_offload",
    "learner.lora_rank",
)
"""Keys that decide how fast the same work is done."""


@dataclass(frozen=True)
class _Told:
    """What a file says in one place."""

    place: str
    values: dict[str, Any]

    def value(self, name: str) -> Any:
        """By a dotted name. Raises ValueError for what is not there."""
        found: Any = self.values
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                raise ValueError(f"{self.place} has no {name}: another version may have written it; measure again")
            found = found[part]
        return found

    def number(self, name: str) -> float:
        """By a dotted name. Raises ValueError for what is no finite number of 0 or above."""
        found = self.value(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
            raise ValueError(f"{self.place} has {name} = {found!r:.40}, and not a number of 0 or above; measure again")
        return found

    def positive(self, name: str) -> float:
        """By a dotted name. Raises ValueError for what is no finite number above 0."""
        if not (found := self.number(name)):
            raise ValueError(f"{self.place} has {name} = 0; measure again")
        return found


def read_costs(path: Path, work: RunShape) -> tuple[dict[str, float], str]:
    """The costs that a file tells of runs like `config`, and in a few words where they come from.

    Raises ValueError, in one line with the key to change, for a file that is none, or is of another shape of run.
    """
    lines = _lines(path)
    if metrics := [line for line in lines if line.values.get("stage") == "dmd"]:
        return _from_run(path, metrics, work)
    if rollouts := [line for line in lines if line.values.get("name") == "rollout_fps"]:
        return _from_benchmark(path, rollouts[-1], work)
    raise ValueError(
        f"plan.costs={path} holds neither metrics of stage dmd nor lines of benchmarks/rollout_fps; give another file"
    )


def _lines(path: Path) -> list[_Told]:
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a run that is killed, or still writes, may leave half a line
        found = [(number, json.loads(line)) for number, line in enumerate(whole.split("\n"), 1) if line.strip()]
    except OSError as error:
        raise ValueError(f"plan.costs={path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"plan.costs={path} is no file of JSON lines ({error}); give metrics.jsonl") from error
    return [_Told(f"line {number} of plan.costs={path}", line) for number, line in found if isinstance(line, dict)]


def _from_run(path: Path, lines: Sequence[_Told], work: RunShape) -> tuple[dict[str, float], str]:
    """Times at work over what was made in them; intervals across a restart are left out."""
    run = _config_beside(path)
    if run.value("cluster.kind") == "inline":
        raise ValueError(f"plan.costs={path} is of an inline run, whose halves take turns; measure with cluster=ray")
    planned = _Told("the plan", asdict(work))
    _check_alike(path, run, {name: planned.value(name) for name in (*_STUDENT, *_SHAPING, *_SPEED)})
    pairs = [
        (line, line.number("time") - before.number("time"))
        for before, line in pairwise(lines)
        if line.number("step") == before.number("step") + 1 and "waited/begin_s" not in line.values
    ]
    if len(pairs) < LEAST_UPDATES:
        raise ValueError(f"plan.costs={path} has {len(pairs)} updates behind the first; {LEAST_UPDATES} are needed")
    blocks = sum(line.number("rollout/blocks") for line, _ in pairs)
    rolled_s = sum(line.number("rollout/busy_share") * line.number("rollout/actors") * s for line, s in pairs)
    learnt_s = sum(line.number("learner/busy_share") * s for line, s in pairs)
    sums = {"rollout/blocks": blocks, "rollout/busy_share": rolled_s, "learner/busy_share": learnt_s}
    for name, amount in sums.items():
        if not amount > 0:
            raise ValueError(f"plan.costs={path} has no update with {name} above 0; measure again")
    # An update's time is known only as a whole: it is shared out as the operations are.
    student, critic = student_window_flops(work, "dmd"), critic_window_flops(work, "dmd")
    update = run.positive("dmd.batch_size") * (student + run.positive("dmd.critic_updates") * critic)
    window_s = learnt_s * run.positive("cluster.learner_ranks") / (len(pairs) * update)
    published_s = [line.number("waited/publish_s") for line, _ in pairs if "waited/publish_s" in line.values]
    found = {
        "block_s": rolled_s * work.rollout.batch / blocks,
        "cut_s": 0.0,  # is in the actors' time already
        "student_window_s": student * window_s,
        "critic_window_s": critic * window_s,
        "publish_s": sum(published_s) / len(pairs),
    }
    return found, f"measured in {len(pairs)} updates of {path}"


def _from_benchmark(path: Path, line: _Told, work: RunShape) -> tuple[dict[str, float], str]:
    """The benchmark makes one video; several side by side are taken to cost as much as one after the other."""
    student, rollout = work.student, work.rollout
    planned = {
        "config.model": student.model,
        "config.latent": list(student.frame_shape),
        "config.steps": len(student.timesteps),
        "config.attention_frames": student.attention_frames,
        "config.dtype": rollout.dtype,
        "config.compile": rollout.compile,
    }
    _check_alike(path, line, planned)
    block_ms = line.positive("block_ms")
    return {"block_s": rollout.batch * block_ms / 1000}, f"rollout_fps on {line.value('device')} in {path}"


def _config_beside(path: Path) -> _Told:
    place = f"the config.yaml beside plan.costs={path}"
    try:
        read = yaml.safe_load(path.with_name("config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"plan.costs={path} needs the run's config.yaml beside it ({type(error).__name__})") from error
    if not isinstance(read, dict):
        raise ValueError(f"{place} holds no configuration; restore it, or measure again")
    return _Told(place, read)


def _check_alike(path: Path, measured: _Told, planned: dict[str, Any]) -> None:
    for name, wanted in planned.items():
        there = measured.value(name)
        if there != wanted:
            raise ValueError(
                f"plan.costs={path} was measured with {name} = {there!r:.60}, and {wanted!r:.60} is planned; "
                "measure again"
            )
