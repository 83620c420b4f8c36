"""Map keys of older releases to their current names."""

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "pretrain.lr": "pretrain.optimizer.lr",
    "pretrain.adamw_lr": "pretrain.optimizer.adamw_lr",
    "ode.lr": "ode.optimizer.lr",
    "ode.adamw_lr": "ode.optimizer.adamw_lr",
    "dmd.student_lr": "dmd.optimizer.lr",
    "dmd.beta1": "dmd.optimizer.beta1",
    "dmd.beta2": "dmd.optimizer.beta2",
    "dmd.weight_decay": "dmd.optimizer.weight_decay",
    "dmd.grad_clip": "dmd.optimizer.grad_clip",
    "grpo.lr": "grpo.optimizer.lr",
    "grpo.beta1": "grpo.optimizer.beta1",
    "grpo.beta2": "grpo.optimizer.beta2",
    "grpo.weight_decay": "grpo.optimizer.weight_decay",
    "grpo.grad_clip": "grpo.optimizer.grad_clip",
}
"""Current names by older ones. Command lines, presets, scans and the config.yaml of a run folder take both."""


def with_current_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a nested mapping, as in a preset or config.yaml, under current names; older names win."""
    copy = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    for old, new in RENAMED.items():
        group, last = old.split(".")
        _, inner, name = new.split(".")
        if isinstance(part := copy.get(group), dict) and last in part:
            given = part.get(inner)
            part[inner] = {**(given if isinstance(given, dict) else {}), name: part.pop(last)}
    return copy
