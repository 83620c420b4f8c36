"""Load LoRA files of diffusers, peft and others: merge them into weights, or attach them through peft."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from models.checkpoints.formats import read_part
from models.checkpoints.safetensors_files import first_names, open_safetensors, read_header
from models.checkpoints.weight_names import from_kohya, strip_wrappers, to_diffusers
from models.errors import ConfigError
from models.user_paths import is_pickle

_DOWN = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
_UP = (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight")
_ALPHA = (".alpha",)
_METADATA = "lora_adapter_metadata"
_OF_PEFT = "adapter_model.safetensors"
_IN_FOLDER = ("pytorch_lora_weights.safetensors", _OF_PEFT)
"""The file's name in a folder of diffusers and of peft."""


@dataclass(frozen=True)
class Adapter:
    """Adds scale * up @ down to one matrix."""

    down: Tensor
    """[rank D_in]"""
    up: Tensor
    """[D_out rank]"""
    scale: float


def read_adapters(path: Path, key: str, strength: float = 1.0, part: str | None = None) -> dict[str, Adapter]:
    """Read the adapters of a file, or of a folder of diffusers or peft, by the name in diffusers of their layer.

    `strength` multiplies them. An alpha comes from the file's own tensors, from the metadata that diffusers writes,
    or from peft's adapter_config.json beside it; without any it equals the rank, as in diffusers. `part` chooses
    one of a `.pt` (default: generator_lora). Raises ConfigError, naming `key`, for a bad file or no LoRA.
    """
    tensors, described = _read(path, key, part)
    layers: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        for role, endings in (("down", _DOWN), ("up", _UP), ("alpha", _ALPHA)):
            ending = next((ending for ending in endings if name.endswith(ending)), None)
            if ending is not None:
                layers.setdefault(to_diffusers(strip_wrappers(from_kohya(name.removesuffix(ending)))), {})[role] = (
                    tensor
                )
                break
        else:
            unknown.append(name)
    if unknown or len(tensors) != sum(map(len, layers.values())) or not layers:
        names = f"has the unknown {first_names(unknown)}" if unknown else "is empty, or has a matrix twice"
        raise ConfigError(key, path, f"is no LoRA that can be read: it {names}", f"change {key}")
    return {layer: _adapter(layer, parts, described, strength, path, key) for layer, parts in layers.items()}


def check_adapters(adapters: Mapping[str, Adapter], shapes: Mapping[str, tuple[int, ...]], key: str = "lora") -> None:
    """Reject adapters for layers that the network lacks, or has in other sizes (ConfigError, naming `key`)."""
    for layer, adapter in adapters.items():
        shape, adapted = shapes.get(f"{layer}.weight"), (adapter.up.shape[0], adapter.down.shape[1])
        if shape is None:
            raise ConfigError(key, None, f"it adapts {layer}, which the network does not have", f"change {key}")
        if shape != adapted:
            raise ConfigError(
                key, None, f"it adapts a {layer} of {adapted}, and the network's is {shape}", f"change {key}"
            )


def merge_adapters(
    tensors: Iterable[tuple[str, Tensor]], adapters: Mapping[str, Adapter]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors, each with its adapter added, in at least float32 where there is one."""
    for name, tensor in tensors:
        adapter = adapters.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if adapter is not None:
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            tensor = tensor.to(dtype) + adapter.scale * (adapter.up.to(dtype) @ adapter.down.to(dtype))
        yield name, tensor


def attach_adapters(network: Module, adapters: Mapping[str, Adapter]) -> None:
    """Attach live adapters to their layers, in place, by peft; everything else is frozen. Raises ConfigError.

    In bfloat16 an adapter that is small against its layer is rounded away when merged; live it is not.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, and only live LoRA needs it

    check_adapters(adapters, {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    ranks = {layer: adapter.down.shape[0] for layer, adapter in adapters.items()}
    alphas = {layer: adapter.scale * ranks[layer] for layer, adapter in adapters.items()}
    config = LoraConfig(target_modules=list(adapters), rank_pattern=ranks, alpha_pattern=alphas)
    inject_adapter_in_model(config, network)
    targets = network.state_dict()
    with torch.no_grad():
        for layer, adapter in adapters.items():
            targets[f"{layer}.lora_A.default.weight"].copy_(adapter.down)
            targets[f"{layer}.lora_B.default.weight"].copy_(adapter.up)


def _read(path: Path, key: str, part: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors under the file's own names, and their metadata in the terms of peft's config."""
    if is_pickle(path):
        return read_part(path, key, part, ("generator_lora",)), {}
    if part is not None:
        raise ConfigError(key, path, "is no .pt and holds one set of adapters", f"leave part={part} out")
    if path.is_dir():
        path = next((path / name for name in _IN_FOLDER if (path / name).is_file()), path / _IN_FOLDER[0])
    read_header(path, key)
    with open_safetensors(path, key) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    beside = path.with_name("adapter_config.json")
    peft = path.name == _OF_PEFT and beside.is_file()  # beside a file of another name it may be of something else
    try:
        text = metadata.get(_METADATA) or (beside.read_text() if peft else "{}")
        described = {name.removeprefix("transformer."): value for name, value in json.loads(text).items()}
        patterns = described.get("alpha_pattern") or {}
        for alpha in (described.get("lora_alpha", 1), *patterns.values()):
            if not isinstance(alpha, int | float) or not math.isfinite(alpha):
                raise ValueError(f"an alpha of {alpha}")
        for pattern in patterns:
            re.compile(pattern)
        return tensors, described
    except (OSError, ValueError, AttributeError, re.error) as error:
        raise ConfigError(key, path, f"has metadata that cannot be read ({error})", f"change {key}") from error


def _adapter(
    layer: str, parts: Mapping[str, Tensor], described: Mapping[str, Any], strength: float, path: Path, key: str
) -> Adapter:
    change = f"change {key}"
    if missing := {"down", "up"} - parts.keys():
        raise ConfigError(key, path, f"lacks the {' and '.join(sorted(missing))} matrix of {layer}", change)
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2 or not down.shape[0] == up.shape[1] > 0:
        shapes = f"{list(down.shape)} and {list(up.shape)}"
        raise ConfigError(key, path, f"has matrices of {shapes} for {layer}, which do not multiply", change)
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise ConfigError(key, path, f"has an alpha of {list(parts['alpha'].shape)} for {layer}", change)
    rank = down.shape[0]
    alpha = described.get("lora_alpha", rank)
    for pattern, value in (described.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):  # as peft reads them; ranks are those of the matrices
            alpha = value
            break
    if "alpha" in parts:
        alpha = parts["alpha"].item()
    if not math.isfinite(alpha):
        raise ConfigError(key, path, f"has an alpha of {alpha} for {layer}", change)
    return Adapter(down, up, strength * alpha / (math.sqrt(rank) if described.get("use_rslora") else rank))
