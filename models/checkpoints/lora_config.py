"""Read what a LoRA says of itself beside its matrices: alphas, and fields that change its mathematics."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints.containers import Content
from models.errors import ConfigError

_METADATA = "lora_adapter_metadata"
"""Field of a safetensors header in which diffusers keeps peft's configuration."""
_OF_PEFT, _CONFIG = "adapter_model.", "adapter_config.json"

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
    """Holds the alphas of a LoRA as its configuration states them."""

    source: str
    """File or header that states them; empty without any."""
    alpha: float | None
    patterns: Mapping[str, float]
    """Alpha by pattern of the layer's name; the first that fits counts, as in peft."""
    rank_stabilised: bool

    def alpha_of(self, layer: str) -> float | None:
        """Return the alpha of a layer by its name in diffusers; None where none is stated."""
        for pattern, value in self.patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return value
        return self.alpha


def read_lora_config(content: Content, key: str) -> LoraConfiguration:
    """Read the header of diffusers, or the adapter_config.json beside peft's adapter_model of any container.

    Raises ConfigError, naming `key`, for one that cannot be read, and by name for a field that a plain LoRA lacks.
    """
    path, beside = content.path, content.path.with_name(_CONFIG)
    source, text = "", "{}"
    try:
        if _METADATA in content.metadata:
            source, text = f"{_METADATA} in its header", content.metadata[_METADATA]
        elif path.name.startswith(_OF_PEFT) and beside.is_file():  # beside another file it may be of something else
            source, text = _CONFIG, beside.read_text()
        fields = {name.removeprefix("transformer."): value for name, value in json.loads(text).items()}
        patterns = fields.get("alpha_pattern") or {}
        for name, alpha in {"lora_alpha": fields.get("lora_alpha", 1), **patterns}.items():
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
                raise ValueError(f"{name}={alpha}")
        for pattern in patterns:
            re.compile(pattern)
    except (OSError, ValueError, AttributeError, TypeError, re.error) as error:
        problem = f"has metadata that cannot be read ({error}, {source})"
        raise ConfigError(key, path, problem, f"change {key}") from error
    _check_plain(fields, path, key, source)
    return LoraConfiguration(source, fields.get("lora_alpha"), patterns, bool(fields.get("use_rslora")))


def _check_plain(fields: Mapping[str, Any], path: Path, key: str, source: str) -> None:
    for name, plain in _PLAIN.items():
        value = fields.get(name)
        if not any(value is allowed or (value == allowed and type(value) is type(allowed)) for allowed in plain):
            problem = f"has {name}={json.dumps(value)} in {source}, which is more than a plain LoRA"
            raise ConfigError(key, path, problem, "merge it where it was trained, or give a plain LoRA")
