"""Whether a run fits the memory of its devices, and which keys make it fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cluster.config.devices import DEVICES
from cluster.config.run_config import Config
from cluster.planning import memory, placement

_RANK_CURES = (
    ("learner.checkpoint_activations", True),
    ("learner.micro_batch", 1),
    ("learner.teacher_dtype", "bfloat16"),
    ("learner.dtype", "bfloat16"),
    ("learner.lora_rank", 64),
)
"""From what costs least to what changes most."""
_ACTOR_CURES = (("rollout.batch", 1), ("rollout.dtype", "bfloat16"))


def rank_bytes(config: Config) -> float:
    """Bytes of one learner rank in stage dmd."""
    return memory.total(memory.rank_memory(config, "dmd"))


def actor_bytes(config: Config) -> float:
    """Bytes of the rollout processes that share a device."""
    sharing = max(1, int(placement.processes_per_gpu(placement.rollout(config))))
    return sharing * memory.total(memory.actor_memory(config, "dmd"))


def check_fit(config: Config) -> None:
    """Raise ValueError, in one line with bytes and the keys to change, for what does not fit the expected device."""
    there = DEVICES[config.expected_device].memory_bytes
    if there is None:
        return
    for who, needed, cures in (
        (f"one of {config.cluster.learner_ranks} learner ranks", rank_bytes, _RANK_CURES),
        ("the rollout processes of one GPU", actor_bytes, _ACTOR_CURES),
    ):
        if needed(config) > there:
            raise ValueError(
                f"{who} would hold {needed(config) / 1e9:.1f} GB, and device_name={config.expected_device} has "
                f"{there / 1e9:.0f} GB; {_cure(config, needed, there, cures)}"
            )


def _cure(config: Config, needed: Callable[[Config], float], there: float, cures: Sequence[tuple[str, Any]]) -> str:
    """The first key that helps alone, else the keys that help together."""
    changes = [(name, value) for name, value in cures if _changed(config, name, value) != config]
    if config.learner.lora_rank is not None:
        changes = [change for change in changes if change[0] != "learner.lora_rank"]
    for change in changes:
        if needed(_changed(config, *change)) <= there:
            return f"set {_shown(*change)} ({needed(_changed(config, *change)) / 1e9:.1f} GB)"
    for i, change in enumerate(changes):
        config = _changed(config, *change)
        if needed(config) <= there:
            together = ", ".join(_shown(*one) for one in changes[: i + 1])
            return f"set {together} together ({needed(config) / 1e9:.1f} GB)"
    return f"choose more learner ranks, a larger device_name ({', '.join(DEVICES)}) or a smaller student.model"


def _changed(config: Config, name: str, value: Any) -> Config:
    group, _, field = name.partition(".")
    return replace(config, **{group: replace(getattr(config, group), **{field: value})})


def _shown(name: str, value: Any) -> str:
    return f"{name}={str(value).lower()}"
