"""Read what a LoRA says of itself beside its matrices: alphas, and fields that change its mathematics."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints.containers import Content
from models.checkpoints.safetensors_files import first_names
from models.checkpoints.weight_containers import WEIGHT_ENDINGS
from models.checkpoints.weight_names import strip_wrappers, to_original
from models.errors import ConfigError
from models.file_kinds import read_text

LORA_CONFIG = "adapter_config.json"
"""File in which peft keeps the configuration of a LoRA."""
UNSTATED = "no alpha is stated"
"""Remark on a layer without alpha, whose rank counts instead."""

MOST_ALPHA = 1e9
"""Bound of an alpha, far above that of any LoRA."""
_METADATA = "lora_adapter_metadata"
"""Field of a safetensors header in which diffusers keeps peft's configuration."""
_OF_PEFT = "adapter_model."
"""Beginning of the names that peft gives to files of a LoRA."""

_PLAIN = {
    "peft_type": ("LORA", None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", None),
}
"""Fields of peft's configuration, with the values under which up @ down is the whole change of a weight.

The weights that pissa, olora, corda and loftq start from are not those of the base checkpoint.
"""


@dataclass(frozen=True)
class LoraConfiguration:
    """Holds the alphas and ranks of a LoRA as its configuration states them."""

    source: str
    """File or header that states them; empty without any."""
    alpha: float | None
    """Alpha of the layers that no pattern fits; None where none is stated."""
    alphas: Mapping[str, float]
    """Alpha by name in diffusers of the layers that a pattern fits."""
    rank: int | None
    """Rank of the layers that no pattern fits; None where none is stated."""
    ranks: Mapping[str, int]
    """Rank by name in diffusers of the layers that a pattern fits."""
    rank_stabilised: bool
    unstated: str
    """Remark on a layer whose alpha nothing states."""


def config_beside(path: Path) -> Path | None:
    """Return the place of peft's configuration of a LoRA in a file or a folder of shards.

    None for one of several files, unless peft writes that name: the configuration may be of another.
    """
    if path.is_dir():
        return path / LORA_CONFIG
    weights = [entry.name for entry in path.parent.glob("*") if entry.suffix in WEIGHT_ENDINGS]
    return path.with_name(LORA_CONFIG) if path.name.startswith(_OF_PEFT) or weights == [path.name] else None


def read_lora_config(content: Content, beside: Path | None, layers: Mapping[str, str], key: str) -> LoraConfiguration:
    """Read the header of diffusers, or peft's configuration at `beside` of a file of any container.

    `layers` gives the names in the file by those in diffusers. Raises ConfigError, naming `key`, for one that cannot be
    read, for a pattern that fits no layer, and by name for a field that a plain LoRA lacks.
    """
    path, source, text = content.path, "", "{}"
    unstated = UNSTATED + (f" and {LORA_CONFIG} is missing" if path.name.startswith(_OF_PEFT) else "")
    try:
        if _METADATA in content.metadata:
            source, text = f"{_METADATA} in its header", content.metadata[_METADATA]
        elif beside is not None and beside.is_file():
            source, text, unstated = LORA_CONFIG, read_text(beside, key), UNSTATED
    except OSError as error:
        raise ConfigError(key, beside, f"cannot be read ({error.strerror})", f"change {key}") from error
    try:
        fields = {name.removeprefix("transformer."): value for name, value in json.loads(text).items()}
        patterns, ranks = ({**(fields.get(name) or {})} for name in ("alpha_pattern", "rank_pattern"))
        _check_values(fields, patterns, ranks)
        fitting = {one: _fitting(one, layers) for one in (*patterns, *ranks)}
    except (ValueError, AttributeError, TypeError, RecursionError, OverflowError, re.error) as error:
        problem = f"has metadata that cannot be read ({error}, {source})"
        raise ConfigError(key, path, problem, "correct that field, or copy the file again") from error
    for name, plain in _PLAIN.items():
        value = fields.get(name)
        if not any(value is allowed or (value == allowed and type(value) is type(allowed)) for allowed in plain):
            problem = f"has {name}={json.dumps(value):.60} in {source}, which is more than a plain LoRA"
            raise ConfigError(key, path, problem, "merge it where it was trained, or give a plain LoRA")
    if idle := [pattern for pattern, fits in fitting.items() if not fits]:
        problem = f"has {first_names(idle)} in alpha_pattern or rank_pattern of {source}, which fits none of its layers"
        raise ConfigError(key, path, problem, "give the configuration of this file, or remove the pattern")
    # Of several patterns that fit a layer the first counts, as in peft.
    alphas, own_ranks = (
        {layer: value for one, value in reversed(values.items()) for layer in fitting[one]}
        for values in (patterns, ranks)
    )
    return LoraConfiguration(
        source, fields.get("lora_alpha"), alphas, fields.get("r"), own_ranks, bool(fields.get("use_rslora")), unstated
    )


def _check_values(fields: Mapping[str, Any], alphas: Mapping[str, Any], ranks: Mapping[str, Any]) -> None:
    """Reject alphas, ranks and switches of other types, or out of range (ValueError)."""
    for name, alpha in {"lora_alpha": fields.get("lora_alpha", 1), **alphas}.items():
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= MOST_ALPHA:
            raise ValueError(f"{name}={alpha!r:.40}")
    for name, rank in {"r": fields.get("r", 1), **ranks}.items():
        if type(rank) is not int or not 0 < rank < 2**31:
            raise ValueError(f"{name}={rank!r:.40}")
    if fields.get("use_rslora") not in (True, False, None):
        raise ValueError(f"use_rslora={fields['use_rslora']!r:.40}")


def _fitting(pattern: str, layers: Mapping[str, str]) -> set[str]:
    """Return the layers that a pattern fits, under the first spelling of their names in which it fits any.

    The file's own names come first, so that a short pattern of one spelling means nothing in another.
    """
    spellings = (
        {layer: strip_wrappers(name) for layer, name in layers.items()},
        layers,
        {layer: layer for layer in layers},
        {layer: to_original(layer) for layer in layers},
    )
    rule = re.compile(rf"(.*\.)?({pattern})$")
    fitting = ({layer for layer, name in names.items() if rule.match(name)} for names in spellings)
    return next(filter(None, fitting), set())
