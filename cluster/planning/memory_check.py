"""Check whether the stages of a run fit the memory that there is, and name the keys that make them fit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.config.devices import DEVICES
from cluster.planning import memory, placement, rank_memory
from cluster.planning.process_memory import LIBRARIES, processes_of, total_bytes
from cluster.planning.run_shape import RunShape
from models.errors import ConfigError, written

_ERROR = 0.15
"""Largest error of the estimate for a CPU: a run is rejected only where less than that much less is free."""
_RANK_CURES = (
    ("learner.checkpoint_activations", True),
    ("learner.micro_batch", 1),
    ("learner.teacher_dtype", "bfloat16"),
    ("learner.dtype", "bfloat16"),
)
"""Keys and values, from the cheapest to the largest change."""
_ADAPTERS = ("learner.lora_rank", 64)
_ACTOR_CURES = (("rollout.batch", 1), ("rollout.dtype", "bfloat16"))
_MACHINE_CURES = (
    ("checkpoint.asynchronous", False),
    *(cure for cure in _RANK_CURES if cure[0] != "learner.dtype"),
    *_ACTOR_CURES,
    ("cluster.rollout_actors", 1),
    _ADAPTERS,
)
"""The same where all processes share one machine; learner.dtype needs ranks of their own."""


@dataclass(frozen=True)
class _Claim:
    """Describes processes of a run that share one memory."""

    processes: str
    needed: Callable[[RunShape, str], float]
    """Function that counts the bytes of these processes in a stage."""
    cures: Sequence[tuple[str, Any]]
    else_fix: str
    """Fix where no key helps."""


def rank_bytes(work: RunShape, stage: str) -> float:
    """Count the bytes of one learner rank on its device."""
    return total_bytes(rank_memory.rank_memory(work, stage))


def actor_bytes(work: RunShape, stage: str) -> float:
    """Count the bytes of the rollout processes that share a device; none take part in stage teacher."""
    lines = [] if stage == "teacher" else memory.actor_memory(work, stage)
    sharing = max(1, int(placement.processes_per_gpu(placement.rollout(work.cluster))))
    return sharing * total_bytes(lines)


def machine_bytes(work: RunShape, stage: str) -> float:
    """Count the bytes that a run on the CPU of one machine holds for sure; its processes share the libraries."""
    kinds = processes_of(replace(work, expected_device="cpu"), stage)
    return (1 - _ERROR) * (LIBRARIES + sum(one.number * (total_bytes(one.memory) - LIBRARIES) for one in kinds))


def check_memory(work: RunShape, own: float | None = None) -> None:
    """Raise ConfigError, with bytes and the keys to change, for processes that their device cannot hold.

    The device is the expected one, of actors too, or a learner rank's `own` GPU of so many bytes.
    """
    heads = work.student.wan.num_attention_heads, work.teacher_wan.num_attention_heads
    split = ("cluster.sequence_ranks", math.gcd(work.cluster.learner_ranks, *heads))
    other = f"choose more learner ranks, a larger device_name ({', '.join(DEVICES)}) or a smaller student.model"
    name = f"one of {work.cluster.learner_ranks} learner ranks"
    ranks = _Claim(name, rank_bytes, (*_RANK_CURES, split, _ADAPTERS), other)
    if own is not None:
        _require(work, [ranks], own, ("student.model", work.student.model, "a rank's GPU has"))
    elif (room := DEVICES[work.expected_device].memory_bytes) is not None:
        actors = _Claim("the rollout processes of one GPU", actor_bytes, _ACTOR_CURES, other)
        _require(work, [ranks, actors], room, ("device_name", work.expected_device, "it has"))


def check_machine(work: RunShape, free: float) -> None:
    """Raise ConfigError for a run on the CPU of one machine that its `free` bytes surely cannot hold."""
    other = "use a machine with more memory, or a smaller student.model"
    claim = _Claim("the run's processes", machine_bytes, _MACHINE_CURES, other)
    _require(work, [claim], free, ("student.model", work.student.model, "this machine has free"))


def _require(work: RunShape, claims: Sequence[_Claim], room: float, blamed: tuple[str, str, str]) -> None:
    """Raise ConfigError for a claim above `room` in any stage; `blamed`: key, value, and words before the room."""
    key, value, has = blamed
    for claim in claims:
        needed, stage = max((claim.needed(work, stage), stage) for stage in work.stages)
        if needed > room:
            holds = f"{claim.processes} would hold {needed / 1e9:.1f} GB in stage {stage}"
            raise ConfigError(key, value, f"{has} {room / 1e9:.3g} GB, and {holds}", _cure(work, claim, room))


def _cure(work: RunShape, claim: _Claim, room: float) -> str:
    """Write the first key that helps all stages alone, else the keys that help together."""

    def needed(shape: RunShape) -> float:
        return max(claim.needed(shape, stage) for stage in shape.stages)

    def changed(shape: RunShape, name: str, value: Any) -> RunShape:
        group, _, field = name.partition(".")
        return replace(shape, **{group: replace(getattr(shape, group), **{field: value})})

    changes = [(name, value) for name, value in claim.cures if changed(work, name, value) != work]
    if work.learner.lora_rank is not None:
        changes = [change for change in changes if change[0] != "learner.lora_rank"]
    for name, value in changes:
        alone = needed(changed(work, name, value))
        if alone <= room:
            return f"set {name}={written(value)} ({alone / 1e9:.1f} GB)"
    together: list[str] = []
    for name, value in changes:
        before, work = needed(work), changed(work, name, value)
        if (after := needed(work)) < before:
            together.append(f"{name}={written(value)}")
        if after <= room:
            return f"set {', '.join(together)} together ({after / 1e9:.1f} GB)"
    return claim.else_fix
