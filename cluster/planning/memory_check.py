"""Check whether a run fits the memory of its devices, and name the keys that make it fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cluster.config.devices import DEVICES
from cluster.planning import memory, placement
from cluster.planning.run_shape import RunShape
from models.errors import ConfigError

_RANK_CURES = (
    ("learner.checkpoint_activations", True),
    ("learner.micro_batch", 1),
    ("learner.teacher_dtype", "bfloat16"),
    ("learner.dtype", "bfloat16"),
    ("learner.lora_rank", 64),
)
"""From what costs least to what changes most."""
_ACTOR_CURES = (("rollout.batch", 1), ("rollout.dtype", "bfloat16"))


def rank_bytes(work: RunShape) -> float:
    """Bytes of one learner rank in stage dmd."""
    return memory.total(memory.rank_memory(work, "dmd"))


def actor_bytes(work: RunShape) -> float:
    """Bytes of the rollout processes that share a device."""
    sharing = max(1, int(placement.processes_per_gpu(placement.rollout(work.cluster))))
    return sharing * memory.total(memory.actor_memory(work, "dmd"))


def check_memory(work: RunShape) -> None:
    """Raise ConfigError, with bytes and the keys to change, for what does not fit the expected device."""
    there = DEVICES[work.expected_device].memory_bytes
    if there is None:
        return
    for who, needed, cures in (
        (f"one of {work.cluster.learner_ranks} learner ranks", rank_bytes, _RANK_CURES),
        ("the rollout processes of one GPU", actor_bytes, _ACTOR_CURES),
    ):
        if needed(work) > there:
            problem = f"it has {there / 1e9:.0f} GB, and {who} would hold {needed(work) / 1e9:.1f} GB"
            raise ConfigError("device_name", work.expected_device, problem, _cure(work, needed, there, cures))


def _cure(work: RunShape, needed: Callable[[RunShape], float], there: float, cures: Sequence[tuple[str, Any]]) -> str:
    """The first key that helps alone, else the keys that help together."""
    changes = [(name, value) for name, value in cures if _changed(work, name, value) != work]
    if work.learner.lora_rank is not None:
        changes = [change for change in changes if change[0] != "learner.lora_rank"]
    for change in changes:
        if needed(_changed(work, *change)) <= there:
            return f"set {_shown(*change)} ({needed(_changed(work, *change)) / 1e9:.1f} GB)"
    for i, change in enumerate(changes):
        work = _changed(work, *change)
        if needed(work) <= there:
            together = ", ".join(_shown(*one) for one in changes[: i + 1])
            return f"set {together} together ({needed(work) / 1e9:.1f} GB)"
    return f"choose more learner ranks, a larger device_name ({', '.join(DEVICES)}) or a smaller student.model"


def _changed(work: RunShape, name: str, value: Any) -> RunShape:
    group, _, field = name.partition(".")
    return replace(work, **{group: replace(getattr(work, group), **{field: value})})


def _shown(name: str, value: Any) -> str:
    return f"{name}={str(value).lower()}"
