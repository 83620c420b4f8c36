"""Keep the best student of a stage by its evaluations, and count the evaluations without a better one."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from safetensors import safe_open
from torch import Tensor

from cluster.config.training_evaluation_config import TrainingEvaluationConfig
from cluster.runs.stage_spec import EvaluationSpec
from evaluation.metrics import BANDS, Metric, metrics
from evaluation.second_curves import REFERENCE_S
from models.checkpoints.weight_files import save_weights
from models.errors import ConfigError

TINY_METRICS = {
    "validity": Metric("valid frames", "share of frames that show the prompted scene", "high"),
    "exposure_drift": Metric("exposure drift", "mean distance to the first horizon's brightness", "low"),
    "out_of_range": Metric("impossible light", "share of frames", "low"),
    "prompted_motion": Metric("motion at the prompted speed", "share of pairs of frames", "high"),
    "frozen_share": Metric("frozen pairs", "share of pairs of frames", "low"),
    "speed": Metric("speed", "median, over the prompted one", ""),
}
"""Metrics of the tiny world's exact judge, next to those of the curves."""


class BestStudent(NamedTuple):
    """Names the best evaluation so far; its weights are in the stage's best.safetensors."""

    step: int
    value: float


def judged_metrics(in_wan_world: bool) -> dict[str, Metric]:
    """Describe every metric of an evaluation during training, by name."""
    return metrics() | ({} if in_wan_world else TINY_METRICS)


def check_metric(keys: TrainingEvaluationConfig, in_wan_world: bool, seconds: float) -> None:
    """Reject an evaluation.metric that is unknown, has no better direction, or needs longer videos than `seconds`.

    Raises ConfigError.
    """
    known, name = judged_metrics(in_wan_world), keys.metric
    directed = [metric for metric, described in known.items() if described.best]
    if name not in directed:
        problem = "no direction of it is better" if name in known else "no metric has this name"
        close = get_close_matches(name, directed, 1) or [", ".join(directed)]
        raise ConfigError("evaluation.metric", name, problem, f"write {close[0]}")
    if name.partition(".")[0] in BANDS and "." in name and seconds <= REFERENCE_S:
        problem = f"videos of {seconds:g} s, and {name} compares with their first {REFERENCE_S} s"
        enough = 2 * keys.frames * math.ceil(REFERENCE_S / seconds)
        cure = f"write evaluation.frames={enough}, or another evaluation.metric"
        raise ConfigError("evaluation.frames", keys.frames, problem, cure)


def read_best(spec: EvaluationSpec) -> BestStudent | None:
    """Read the best so far from the header of its weights; None where there is none of the same measurement."""
    if not spec.best_file.is_file():
        return None
    with safe_open(spec.best_file, framework="pt") as file:
        origin = file.metadata() or {}
    same = all(origin.get(name) == value for name, value in _measurement(spec).items())
    return BestStudent(int(origin["step"]), float(origin["value"])) if same else None


def keep_if_best(spec: EvaluationSpec, step: int, value: float, tensors: Mapping[str, Tensor]) -> BestStudent:
    """Write `tensors` where `value` of evaluation.metric is the best so far; returns the best.

    The file is replaced as a whole: a kill leaves the old best or the new one.
    """
    best = read_best(spec)
    sign = 1 if judged_metrics(spec.student.in_wan_world)[spec.keys.metric].best == "high" else -1
    if best is not None and not sign * value > sign * best.value:
        return best
    save_weights(tensors, spec.best_file, _measurement(spec) | {"step": step, "value": value, "seed": spec.seed})
    return BestStudent(step, value)


def since_best(spec: EvaluationSpec, step: int, best: BestStudent) -> int:
    """Count the evaluations after the best one, up to `step`: their folders, and the one of `step`.

    Folders of later steps are left by a learner that was rolled back to a checkpoint.
    """
    stage = spec.folder(0).parent
    done = {int(path.parent.name.removeprefix("step_")) for path in stage.glob("step_*/summary.json")} | {step}
    return sum(best.step < other <= step for other in done)


def ending(spec: EvaluationSpec, result: Mapping[str, float]) -> str | None:
    """Write the line about the early end of the stage, or return None while the student may still improve."""
    count, keys = result["evaluation/since_best"], spec.keys
    if not keys.patience or count < keys.patience:
        return None
    return (
        f"stage {spec.stage} ends early: {count:g} evaluations without a better {keys.metric} "
        f"(evaluation.patience={keys.patience}); the best, {result['evaluation/best']:.4g} after "
        f"{result['evaluation/best_step']:g} updates, is {spec.best_file}"
    )


def _measurement(spec: EvaluationSpec) -> dict[str, str]:
    """Describe, as a file's header holds it, the keys that make two values comparable."""
    keys = spec.keys
    return {"metric": keys.metric, "videos": str(keys.prompts), "frames": str(keys.frames)}
