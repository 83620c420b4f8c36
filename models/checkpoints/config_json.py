"""Read and write the config.json of a transformer, in the forms of diffusers and of the original code."""

import json
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

from models.errors import ConfigError
from models.file_kinds import read_text
from models.network_config import WAN_14B, WanConfig

_DIFFUSERS_CLASS = "WanTransformer3DModel"
_DIFFUSERS_CLASSES = (_DIFFUSERS_CLASS, "CausalWanTransformer3DModel")
"""Classes with the fields and weights of diffusers': its own, and that of trainers of causal students."""
_ORIGINAL_CLASSES = ("WanModel", "CausalWanModel")
_DIFFUSERS_ONLY = {"qk_norm": "rms_norm_across_heads", "image_dim": None, "added_kv_proj_dim": None,
                   "pos_embed_seq_len": None}  # fmt: skip
"""Fields whose other values make another network than ours."""

_SHARED = ("eps", "ffn_dim", "freq_dim", "num_layers")
_DEFAULTS = {field.name: field.default for field in fields(WanConfig) if field.default is not MISSING}
_MOST, _MOST_OTHER = (
    {"num_layers": 1000, "patch_size": 64, "num_attention_heads": 1024, "attention_head_dim": 1024},
    2**17,
)
"""Bounds of fields, far above those of any Wan: a damaged number would build a network for hours."""
_UNWRITTEN = ("patch_size", "text_dim", "cross_attn_norm")
"""Fields that the original code leaves out of its config.json: they have one value in every Wan."""


def read_config(path: Path, key: str) -> WanConfig:
    """Read the network that a config.json describes.

    Raises ConfigError, naming `key`, for an unreadable file and for a network that ours cannot be.
    """
    try:
        read = json.loads(read_text(path, key))
    except ConfigError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(key, None, f"{path} cannot be read ({error})", "copy or download it again") from error
    name = read.get("_class_name") if isinstance(read, dict) else None
    change = f"change {key}"
    if name in _DIFFUSERS_CLASSES:
        for field, value in _DIFFUSERS_ONLY.items():
            if read.get(field, value) != value:
                problem = f"{path} has {field}={read[field]}, and our network only {value}"
                raise ConfigError(key, None, problem, change)
        given = {field.name: read[field.name] for field in fields(WanConfig) if field.name in read}
    elif name in _ORIGINAL_CLASSES:
        given = _read_original(read, path, key)
    else:
        raise ConfigError(key, None, f"{path} describes {name or 'no network'}, not {_DIFFUSERS_CLASS}", change)
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}
    try:
        for field, value in given.items():
            if not _like(value, getattr(WAN_14B, field), _MOST.get(field, _MOST_OTHER)):
                raise ValueError(f"{field} is {value!r:.40}")
        return replace(WAN_14B, **given)  # diffusers, too, takes a 14B network for missing fields
    except ValueError as error:
        raise ConfigError(key, None, f"{path} describes no Wan network ({error})", change) from error


def write_config(config: WanConfig, original: bool) -> str:
    """Return the text of config.json, for the original code or for diffusers."""
    if not original:
        described = {name: value for name, value in asdict(config).items() if name != "text_len"}
        described = {"_class_name": _DIFFUSERS_CLASS, **described, **_DIFFUSERS_ONLY, "rope_max_seq_len": 1024}
    else:
        described = {
            "_class_name": _ORIGINAL_CLASSES[0], "model_type": "t2v", "dim": config.dim,
            "num_heads": config.num_attention_heads, "in_dim": config.in_channels, "out_dim": config.out_channels,
            "text_len": config.text_len, **{name: getattr(config, name) for name in _SHARED},
        }  # fmt: skip
        described |= {name: getattr(config, name) for name in _UNWRITTEN if getattr(config, name) != _DEFAULTS[name]}
    return json.dumps(described, indent=2) + "\n"


def config_misfit(expected: WanConfig, described: WanConfig) -> str | None:
    """Describe how the stored network differs from the expected one; return None if it does not.

    The length of texts is no part of the weights, and diffusers does not write it.
    """
    differing = [
        f"{field.name} {getattr(described, field.name)} instead of {getattr(expected, field.name)}"
        for field in fields(WanConfig)
        if field.name != "text_len" and getattr(described, field.name) != getattr(expected, field.name)
    ]
    return ", ".join(differing) or None


def _read_original(read: dict[str, Any], path: Path, key: str) -> dict[str, Any]:
    if read.get("model_type", "t2v") != "t2v":
        problem = f"{path} has model_type={read['model_type']}, and our network is t2v"
        raise ConfigError(key, None, problem, f"change {key}")
    try:
        dim, heads = read["dim"], read["num_heads"]
        if type(dim) is not int or type(heads) is not int or heads < 1 or dim % heads:
            problem = f"{path} has dim={dim} and num_heads={heads}, which do not divide"
            raise ConfigError(key, None, problem, f"change {key}")
        given = {
            "num_attention_heads": heads, "attention_head_dim": dim // heads, "in_channels": read["in_dim"],
            "out_channels": read["out_dim"], **{name: read[name] for name in _SHARED},
        }  # fmt: skip
    except KeyError as error:
        raise ConfigError(key, None, f"{path} lacks {error.args[0]}", "copy or download it again") from error
    return given | {name: read.get(name, _DEFAULTS[name]) for name in ("text_len", *_UNWRITTEN)}


def _like(value: Any, example: Any, most: int) -> bool:
    if isinstance(example, tuple):
        alike = isinstance(value, tuple) and len(value) == len(example)
        return alike and all(_like(one, other, most) for one, other in zip(value, example, strict=True))
    kinds = (int, float) if isinstance(example, float) else (type(example),)
    return type(value) in kinds and (isinstance(value, bool) or 0 < value <= most)
