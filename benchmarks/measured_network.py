"""Name the networks that benchmarks measure, with the student that runs each."""

from dataclasses import replace

import settings
from models.network_config import CONFIGS, StudentConfig, WanConfig

MODELS = ("tiny", "mid", "wan_1_3b")
CONFIGS["mid"] = WanConfig(num_attention_heads=4, attention_head_dim=128, text_dim=512, ffn_dim=2048, num_layers=12)
"""Wan in its own proportions, small enough for a CPU: 46M parameters. No weights of it exist."""


def overrides(model: str) -> list[str]:
    """Return the configuration's overrides for a network of `MODELS`; "mid" has the latents of 128x208 pixels."""
    if model == "mid":
        return ["preset=wan_1_3b", "student.model=mid", "student.height=16", "student.width=26"]
    return [f"preset={model}"]


def measured_student(model: str) -> StudentConfig:
    """Return the student of a network of `MODELS`."""
    return settings.load(overrides(model)).student


def keep_layers(model: str, layers: int | None) -> None:
    """Cut this process's networks of that name to their first `layers`; None keeps all."""
    if layers is not None:
        name = measured_student(model).model
        CONFIGS[name] = replace(CONFIGS[name], num_layers=min(layers, CONFIGS[name].num_layers))
