"""Check whether a run fits the memory of its devices, and name the keys that make it fit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cluster.config.devices import DEVICES
from cluster.planning import memory, placement, rank_memory
from cluster.planning.run_shape import RunShape
from models.errors import ConfigError, written

_RANK_CURES = (
    ("learner.checkpoint_activations", True),
    ("learner.micro_batch", 1),
    ("learner.teacher_dtype", "bfloat16"),
    ("learner.dtype", "bfloat16"),
)
"""Keys and values, from the cheapest to the largest change."""
_ADAPTERS = ("learner.lora_rank", 64)
_ACTOR_CURES = (("rollout.batch", 1), ("rollout.dtype", "bfloat16"))


def rank_bytes(work: RunShape) -> float:
    """Count the bytes of one learner rank in stage dmd."""
    return sum(line.value for line in rank_memory.rank_memory(work, "dmd"))


def actor_bytes(work: RunShape) -> float:
    """Count the bytes of the rollout processes that share a device."""
    sharing = max(1, int(placement.processes_per_gpu(placement.rollout(work.cluster))))
    return sharing * sum(line.value for line in memory.actor_memory(work, "dmd"))


def check_memory(work: RunShape) -> None:
    """Raise ConfigError, with bytes and the keys to change, for processes that the expected device cannot hold."""
    room = DEVICES[work.expected_device].memory_bytes
    if room is None:
        return
    heads = work.student.wan.num_attention_heads, work.teacher_wan.num_attention_heads
    split = ("cluster.sequence_ranks", math.gcd(work.cluster.learner_ranks, *heads))
    for processes, needed, cures in (
        (f"one of {work.cluster.learner_ranks} learner ranks", rank_bytes, (*_RANK_CURES, split, _ADAPTERS)),
        ("the rollout processes of one GPU", actor_bytes, _ACTOR_CURES),
    ):
        if needed(work) > room:
            problem = f"it has {room / 1e9:.0f} GB, and {processes} would hold {needed(work) / 1e9:.1f} GB"
            raise ConfigError("device_name", work.expected_device, problem, _cure(work, needed, room, cures))


def _cure(work: RunShape, needed: Callable[[RunShape], float], room: float, cures: Sequence[tuple[str, Any]]) -> str:
    """Write the first key that helps alone, else the keys that help together."""

    def changed(shape: RunShape, name: str, value: Any) -> RunShape:
        group, _, field = name.partition(".")
        return replace(shape, **{group: replace(getattr(shape, group), **{field: value})})

    changes = [(name, value) for name, value in cures if changed(work, name, value) != work]
    if work.learner.lora_rank is not None:
        changes = [change for change in changes if change[0] != "learner.lora_rank"]
    for name, value in changes:
        alone = needed(changed(work, name, value))
        if alone <= room:
            return f"set {name}={written(value)} ({alone / 1e9:.1f} GB)"
    for i, change in enumerate(changes):
        work = changed(work, *change)
        if needed(work) <= room:
            together = ", ".join(f"{name}={written(value)}" for name, value in changes[: i + 1])
            return f"set {together} together ({needed(work) / 1e9:.1f} GB)"
    return f"choose more learner ranks, a larger device_name ({', '.join(DEVICES)}) or a smaller student.model"
