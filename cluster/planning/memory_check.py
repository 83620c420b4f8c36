"""Check whether the stages of a run fit the memory that there is, and name the keys that make them fit."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.config.devices import DEVICES
from cluster.planning import rank_memory
from cluster.planning.process_memory import LIBRARIES, card_memory, processes_of, total_bytes
from cluster.planning.run_shape import RunShape
from cluster.run_errors import RunFailed
from models.errors import ConfigError, written

_ERROR = 0.15
"""Largest error of the estimate for a CPU: a run is rejected only where less than that much less is free."""
_LESS = 0.9
"""Largest share of its planned bytes that a process may take after a cure, where it ran out of memory with them."""
_RANK_CURES = (
    ("learner.keep_attention", False),
    ("learner.checkpoint_activations", True),
    ("learner.micro_batch", 1),
    ("learner.teacher_dtype", "bfloat16"),
    ("learner.dtype", "bfloat16"),
)
"""Keys and values, from the cheapest to the largest change."""
_ADAPTERS = ("learner.lora_rank", 64)
_ACTOR_CURES = (("rollout.batch", 1), ("rollout.dtype", "bfloat16"))
_CARD_CURES = (*_ACTOR_CURES, ("cluster.actor_gpus", 1))
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

    def most(self, work: RunShape) -> tuple[float, str]:
        """Return the bytes of the largest stage, and its name."""
        return max((self.needed(work, stage), stage) for stage in work.stages)


def rank_bytes(work: RunShape, stage: str) -> float:
    """Count the bytes of one learner rank on its device."""
    return total_bytes(rank_memory.rank_memory(work, stage))


def actor_bytes(work: RunShape, stage: str) -> float:
    """Count the bytes of rollout and reward processes that share a device; none take part in stage teacher."""
    return total_bytes(card_memory(work, stage))


def machine_bytes(work: RunShape, stage: str) -> float:
    """Count the bytes that a run on the CPU of one machine holds for sure; its processes share the libraries."""
    kinds = processes_of(replace(work, expected_device="cpu"), stage)
    return (1 - _ERROR) * (LIBRARIES + sum(one.number * (total_bytes(one.memory) - LIBRARIES) for one in kinds))


def check_memory(work: RunShape) -> None:
    """Raise ConfigError, with bytes and the keys to change, for processes that the expected device cannot hold."""
    room = DEVICES[work.expected_device].memory_bytes
    for claim in (_ranks(work), _card(work)) if room is not None else ():
        _require(work, claim, room, ("device_name", work.expected_device, "it has"))


def check_rank(work: RunShape, own: float) -> None:
    """Raise ConfigError as `check_memory` does, for a learner rank on its own GPU of so many bytes."""
    _require(work, _ranks(work), own, ("student.model", work.student.model, "a rank's GPU has"))


def check_actor(work: RunShape, own: float) -> None:
    """Raise ConfigError as `check_memory` does, for a GPU of so many bytes with its rollout processes."""
    _require(work, _card(work), own, ("student.model", work.student.model, "a rollout process's GPU has"))


def out_of_memory(work: RunShape, rank: int | None, error: BaseException) -> RunFailed:
    """Make one line of the error of a learner rank, None for a rollout process, with the keys that lower its plan."""
    claim = _card(work) if rank is None else _ranks(work)
    name = "a rollout process" if rank is None else f"learner rank {rank}"
    planned, stage = claim.most(work)
    line = str(error).partition("\n")[0].partition(". GPU ")[0]  # torch goes on with all that it holds
    return RunFailed(
        f"{name}: {line}; {planned / 1e9:.1f} GB were planned for {claim.processes} in stage {stage}. "
        f"Fix: {_cure(work, claim, _LESS * planned)}; the checkpoints are good."
    )


def check_machine(work: RunShape, free: float) -> None:
    """Raise ConfigError for a run on the CPU of one machine that its `free` bytes surely cannot hold."""
    other = "use a machine with more memory, or a smaller student.model"
    claim = _Claim("the run's processes", machine_bytes, _MACHINE_CURES, other)
    _require(work, claim, free, ("student.model", work.student.model, "this machine has free"))


def _ranks(work: RunShape) -> _Claim:
    heads = work.student.wan.num_attention_heads, work.teacher_wan.num_attention_heads
    split = ("cluster.sequence_ranks", math.gcd(work.cluster.learner_ranks, *heads))
    name = f"one of {work.cluster.learner_ranks} learner ranks"
    return _Claim(name, rank_bytes, (*_RANK_CURES, split, _ADAPTERS), _others(work, rank_bytes, ["more learner ranks"]))


def _card(work: RunShape) -> _Claim:
    scored = "grpo" in work.stages and work.cluster.reward_gpus
    name = f"the rollout {'and reward ' if scored else ''}processes of one GPU"
    first = ["fewer group.members"] if "grpo" in work.stages else []
    return _Claim(name, actor_bytes, _CARD_CURES, _others(work, actor_bytes, first))


def _others(work: RunShape, needed: Callable[[RunShape, str], float], first: list[str]) -> str:
    """Write what helps where no key does: `first`, devices that hold the bytes needed, and a smaller network."""
    most = max(needed(work, stage) for stage in work.stages)
    enough = [name for name, device in DEVICES.items() if (device.memory_bytes or 0.0) >= most]
    larger = [f"a device_name of more memory ({', '.join(enough)})"] if enough else []
    return f"choose {' or '.join([*first, *larger, 'a smaller student.model'])}"


def _require(work: RunShape, claim: _Claim, room: float, blamed: tuple[str, str, str]) -> None:
    """Raise ConfigError for a claim above `room` in any stage; `blamed`: key, value, and words before the room."""
    key, value, has = blamed
    needed, stage = claim.most(work)
    if needed > room:
        holds = f"{claim.processes} would hold {needed / 1e9:.1f} GB in stage {stage}"
        raise ConfigError(key, value, f"{has} {room / 1e9:.3g} GB, and {holds}", _cure(work, claim, room))


def _cure(work: RunShape, claim: _Claim, room: float) -> str:
    """Write the first key that helps all stages alone, else the keys that help together."""
    tried = [_keys(work, name, value) for name, value in claim.cures]
    changes = [keys for keys in tried if _changed(work, keys) != work]
    if work.learner.lora_rank is not None:
        changes = [keys for keys in changes if _ADAPTERS[0] not in keys]
    for keys in changes:
        alone, _ = claim.most(_changed(work, keys))
        if alone <= room:
            return f"set {_typed(keys)} ({alone / 1e9:.1f} GB)"
    together, changed, (after, _) = dict[str, Any](), work, claim.most(work)
    for keys in changes:
        changed, before = _changed(changed, keys), after
        after, _ = claim.most(changed)
        together |= keys if after < before else {}
        if after <= room:
            return f"set {_typed(together)} together ({after / 1e9:.1f} GB)"
    return claim.else_fix


def _keys(work: RunShape, name: str, value: Any) -> dict[str, Any]:
    """Return a change with the keys that it needs: a pool may not be smaller than its first processes."""
    first = work.cluster.first_actors
    bound = name == "cluster.rollout_actors" and first is not None and first > value
    return {name: value} | ({"cluster.first_actors": value} if bound else {})


def _changed(work: RunShape, keys: Mapping[str, Any]) -> RunShape:
    groups: dict[str, dict[str, Any]] = {}
    for name, value in keys.items():
        group, _, field = name.partition(".")
        groups.setdefault(group, {})[field] = value
    return replace(work, **{name: replace(getattr(work, name), **fields) for name, fields in groups.items()})


def _typed(keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={written(value)}" for name, value in keys.items())
