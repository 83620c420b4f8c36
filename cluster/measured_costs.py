"""What a block and a window have cost where they were measured: a run's metrics.jsonl, or lines of a benchmark."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from cluster.config import Config
from cluster.operations import critic_window_flops, student_window_flops

LEAST_UPDATES = 5
"""Updates of a run from which costs are taken."""
_SHAPING = ("student", "teacher_model", "window.frames", "window.burn_in_frames", "rollout.batch", "dmd.replay")
_LEARNING = (
    "micro_batch",
    "checkpoint_activations",
    "compile",
    "dtype",
    "teacher_dtype",
    "teacher_offload",
    "lora_rank",
)
"""Keys of the learner that decide how fast it is."""

Seconds = dict[str, float]
"""By key of PlanConfig."""


def read_costs(path: Path, config: Config) -> tuple[Seconds, str]:
    """The costs that a file tells of runs like `config`, and in a few words where they come from.

    Raises ValueError, in one line with the key to change, for a file that is none, or is of another shape of run.
    """
    lines = _lines(path)
    if metrics := [line for line in lines if line.get("stage") == "dmd"]:
        return _from_run(path, metrics, config)
    if rollouts := [line for line in lines if line.get("name") == "rollout_fps"]:
        return _from_benchmark(path, rollouts[-1], config)
    raise ValueError(
        f"plan.costs={path} holds neither metrics of stage dmd nor lines of benchmarks/rollout_fps; give another file"
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a run that is killed, or still writes, may leave half a line
        found = [json.loads(line) for line in whole.splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"plan.costs={path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"plan.costs={path} is no file of JSON lines ({error}); give metrics.jsonl") from error
    return [line for line in found if isinstance(line, dict)]


def _from_run(path: Path, lines: list[dict[str, Any]], config: Config) -> tuple[Seconds, str]:
    """Times at work over what was made in them; intervals across a restart are left out."""
    run = _config_beside(path)
    _check_alike(path, run, asdict(config), (*_SHAPING, *(f"learner.{name}" for name in _LEARNING)))
    if "rollout/busy_share" not in lines[-1]:
        raise ValueError(f"plan.costs={path} is of an inline run, whose halves take turns; measure with cluster=ray")
    pairs = [
        (line, line["time"] - before["time"])
        for before, line in pairwise(lines)
        if line["step"] == before["step"] + 1 and "waited/begin_s" not in line
    ]
    blocks = sum(line["rollout/blocks"] for line, _ in pairs)
    if len(pairs) < LEAST_UPDATES or not blocks:
        raise ValueError(f"plan.costs={path} has {len(pairs)} updates behind the first; {LEAST_UPDATES} are needed")
    rolled_s = sum(line["rollout/busy_share"] * line["rollout/actors"] * s for line, s in pairs)
    learnt_s = sum(line["learner/busy_share"] * s for line, s in pairs)
    ranks, dmd = run["cluster"]["learner_ranks"], run["dmd"]
    # An update's time is known only as a whole: it is shared out as the operations are.
    student, critic = student_window_flops(config, "dmd"), critic_window_flops(config, "dmd")
    window_s = learnt_s * ranks / (len(pairs) * dmd["batch_size"] * (student + dmd["critic_updates"] * critic))
    found = {
        "block_s": rolled_s * config.rollout.batch / blocks,
        "cut_s": 0.0,  # is in the actors' time already
        "student_window_s": student * window_s,
        "critic_window_s": critic * window_s,
        "publish_s": sum(line.get("waited/publish_s", 0.0) for line, _ in pairs) / len(pairs),
    }
    return found, f"measured in {len(pairs)} updates of {path}"


def _from_benchmark(path: Path, line: dict[str, Any], config: Config) -> tuple[Seconds, str]:
    """The benchmark makes one video; several side by side are taken to cost as much as one after the other."""
    student = config.student
    planned = {
        "model": student.model,
        "latent": list(student.frame_shape),
        "steps": len(student.timesteps),
        "attention_frames": student.attention_frames,
    }
    _check_alike(path, line["config"], planned, planned)
    return {"block_s": config.rollout.batch * line["block_ms"] / 1000}, f"rollout_fps on {line['device']} in {path}"


def _config_beside(path: Path) -> dict[str, Any]:
    file = path.with_name("config.yaml")
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"plan.costs={path} needs the run's config.yaml beside it ({type(error).__name__})") from error


def _check_alike(path: Path, measured: dict[str, Any], planned: dict[str, Any], keys: Any) -> None:
    for name in keys:
        there, wanted = measured, planned
        for part in name.split("."):
            there, wanted = there.get(part), wanted.get(part)
        if there != wanted:
            raise ValueError(
                f"plan.costs={path} was measured with {name} = {there}, and {wanted} is planned; measure again"
            )
