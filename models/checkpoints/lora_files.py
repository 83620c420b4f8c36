"""Load LoRA files of any tool: merge them into weights, or attach them through peft."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from models.checkpoints.containers import Content, check_floats
from models.checkpoints.folders import LORA_STEMS, open_weights
from models.checkpoints.foreign_kinds import refuse_foreign_adapters
from models.checkpoints.lora_config import MOST_ALPHA, LoraConfiguration, config_beside, read_lora_config
from models.checkpoints.safetensors_files import first_names
from models.checkpoints.weight_names import adapted_layer
from models.errors import ConfigError

_SETS = ("generator_lora", "generator_ema")
"""Sets of adapters of a `.pt`: the first that it holds is read unless another is named."""
_ROLES = (
    ("down", re.compile(r"(.+)\.(?:lora_A|lora_down|lora\.down)(?:\.([^.]+))?\.weight")),
    ("up", re.compile(r"(.+)\.(?:lora_B|lora_up|lora\.up)(?:\.([^.]+))?\.weight")),
    ("alpha", re.compile(r"(.+)\.alpha()")),
    (".weight", re.compile(r"(.+)\.diff()")),
    (".bias", re.compile(r"(.+)\.diff_b()")),
    ("", re.compile(r"(.+)\.diff_m()")),
)
"""Roles of tensors by their names: matrices and alpha of a layer, or a difference of its weight, bias, modulation."""


@dataclass(frozen=True)
class Adapter:
    """Adds scale * up @ down to one matrix."""

    down: Tensor
    """[rank D_in]"""
    up: Tensor
    """[D_out rank]"""
    scale: float
    stated: str = ""
    """Alpha and rank behind the scale, and where the alpha stands."""


Adapters = Mapping[str, Adapter | Tensor]
"""Changes of a network: an Adapter under the name of its layer, a whole difference under that of its tensor."""


def read_adapters(path: Path, key: str, strength: float = 1.0, part: str | None = None) -> dict[str, Adapter | Tensor]:
    """Read the adapters of a file, or of a folder of diffusers or peft, under names of diffusers.

    `strength` multiplies them. An alpha comes from the file's own tensors, from the metadata that diffusers writes,
    or from peft's adapter_config.json (see `config_beside`); without any it equals the rank, as in diffusers. `part`
    chooses a set of several (default: generator_lora of a `.pt`). Raises ConfigError, naming `key`, for a bad file or
    no LoRA.
    """
    return _read_set(path, key, strength, part)[0]


def adapters_of(
    content: Content, beside: Path | None, key: str, strength: float = 1.0, part: str | None = None
) -> dict[str, Adapter | Tensor]:
    """Read the adapters of opened tensors, as `read_adapters` those of a file, with peft's configuration `beside`."""
    path = content.path
    refuse_foreign_adapters(content.stored, path, key)
    check_floats(content.stored, path, key)
    matched = {name: _role(name) for name in content.stored}
    if unknown := [name for name, found in matched.items() if found is None]:
        problem = f"is no LoRA that can be read: it has the unknown {first_names(unknown)}"
        raise ConfigError(key, path, problem, f"change {key}")
    chosen = _chosen_set({found[2] for found in matched.values()} - {""}, path, key, part)
    layers: dict[str, dict[str, Tensor]] = {}
    spelled: dict[str, str] = {}
    differences: dict[str, Tensor] = {}
    read = 0
    for name, tensor in content.tensors():
        role, layer, owner, own_name = matched[name]
        if owner not in ("", chosen):
            continue
        if role != "alpha" and not tensor.isfinite().all():
            raise ConfigError(key, path, f"is damaged: {name} has numbers that are not finite", "download it again")
        if role in ("down", "up", "alpha"):
            layers.setdefault(layer, {})[role] = tensor
            spelled[layer] = own_name
        else:
            differences[layer + role] = strength * tensor.float()
        read += 1
    if read != sum(map(len, layers.values())) + len(differences) or not read:
        raise ConfigError(key, path, "is no LoRA that can be read: it is empty, or has a matrix twice", f"change {key}")
    described = read_lora_config(content, beside, spelled, key)
    return {layer: _adapter(layer, parts, described, strength, path, key) for layer, parts in layers.items()} | (
        differences
    )


def read_loras(
    given: Sequence[tuple[Path, float]], part: str | None, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Adapter | Tensor], list[str]]:
    """Read (path, strength) of several LoRAs, add them up, and describe each in a line with its effective strength.

    Raises ConfigError under the key lora, also for one that does not fit tensors of the sizes `shapes`.
    """
    combined: dict[str, Adapter | Tensor] = {}
    lines = []
    for path, strength in given:
        adapters, chosen = _read_set(path, "lora", strength, part)
        check_adapters(adapters, shapes)
        lines.append(f"lora={path}: {chosen}{_effect(adapters, strength)}")
        for name, new in adapters.items():
            old = combined.get(name)
            if old is None:
                combined[name] = new
            elif isinstance(new, Tensor):
                combined[name] = old + new
            else:  # two adapters of a layer are one of the sum of their ranks
                ups = [adapter.scale * adapter.up.float() for adapter in (old, new)]
                combined[name] = Adapter(torch.cat([old.down.float(), new.down.float()]), torch.cat(ups, dim=1), 1.0)
    return combined, lines


def check_adapters(adapters: Adapters, shapes: Mapping[str, tuple[int, ...]], key: str = "lora") -> None:
    """Reject adapters for layers that the network lacks, or has in other sizes (ConfigError, naming `key`)."""
    for layer, adapter in adapters.items():
        whole = isinstance(adapter, Tensor)
        shape = shapes.get(layer if whole else f"{layer}.weight")
        adapted = tuple(adapter.shape) if whole else (adapter.up.shape[0], adapter.down.shape[1])
        if shape is None:
            raise ConfigError(key, None, f"it adapts {layer}, which the network does not have", f"change {key}")
        if shape != adapted:
            raise ConfigError(
                key, None, f"it adapts a {layer} of {adapted}, and the network's is {shape}", f"change {key}"
            )


def merge_adapters(tensors: Iterable[tuple[str, Tensor]], adapters: Adapters) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors, each with its adapter and difference added, in at least float32 where there is one."""
    for name, tensor in tensors:
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        adapter = adapters.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if adapter is not None:
            tensor = tensor.to(dtype) + adapter.scale * (adapter.up.to(dtype) @ adapter.down.to(dtype))
        if name in adapters:
            tensor = tensor.to(dtype) + adapters[name]
        yield name, tensor


def attach_adapters(network: Module, adapters: Adapters) -> None:
    """Attach live adapters to their layers, in place, by peft; everything else is frozen. Raises ConfigError.

    In bfloat16 an adapter that is small against its layer is rounded away when merged; live it is not. Whole
    differences are added to the weights in place: `load_weights` adds them before weights are rounded.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, and only live LoRA needs it

    check_adapters(adapters, {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    matrices = {layer: adapter for layer, adapter in adapters.items() if isinstance(adapter, Adapter)}
    targets = network.state_dict()
    with torch.no_grad():
        for name in adapters.keys() - matrices.keys():
            targets[name].add_(adapters[name])
    if not matrices:
        return
    ranks = {layer: adapter.down.shape[0] for layer, adapter in matrices.items()}
    alphas = {layer: adapter.scale * ranks[layer] for layer, adapter in matrices.items()}
    config = LoraConfig(target_modules=list(matrices), rank_pattern=ranks, alpha_pattern=alphas)
    inject_adapter_in_model(config, network)
    targets = network.state_dict()
    with torch.no_grad():
        for layer, adapter in matrices.items():
            targets[f"{layer}.lora_A.default.weight"].copy_(adapter.down)
            targets[f"{layer}.lora_B.default.weight"].copy_(adapter.up)


def _read_set(path: Path, key: str, strength: float, part: str | None) -> tuple[dict[str, Adapter | Tensor], str]:
    """Read the adapters of a file, and name the set of several that was taken, and the others."""
    content = open_weights(path, key, part, _SETS, LORA_STEMS)
    chosen = f"set {content.part} (also held: {', '.join(content.others)}), " if content.others else ""
    own_part = part if content.part is None else None
    return adapters_of(content, config_beside(content.path), key, strength, own_part), chosen


def _role(name: str) -> tuple[str, str, str, str] | None:
    """Return role, layer in diffusers, adapter's name or "", and layer in the file of a tensor; None if unknown."""
    for role, pattern in _ROLES:
        if match := pattern.fullmatch(name):
            layer = adapted_layer(f"{match[1]}.modulation" if role == "" else match[1])
            return role, layer, match[2] or "", match[1]
    return None


def _chosen_set(names: set[str], path: Path, key: str, part: str | None) -> str:
    """Return the adapter to read of those that a file names. Raises ConfigError where that is open."""
    held = ", ".join(sorted(names)) or "none with a name"
    if part is not None and part not in names:
        raise ConfigError(key, path, f"has no adapter {part}; it has {held}", f"change {key}_part, or leave it out")
    if part is None and len(names) > 1:
        problem = f"has several adapters: {held}"
        raise ConfigError(key, path, problem, f"write {key}_part={min(names)}, or another of them")
    return part or "".join(names)


def _adapter(
    layer: str, parts: Mapping[str, Tensor], described: LoraConfiguration, strength: float, path: Path, key: str
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
    if (stated_rank := described.ranks.get(layer, described.rank)) not in (None, down.shape[0]):
        problem = f"has matrices of rank {down.shape[0]} for {layer}, and {stated_rank} in {described.source}"
        raise ConfigError(key, path, problem, "give the configuration of this file")
    rank, alpha, source = down.shape[0], described.alphas.get(layer, described.alpha), described.source
    if "alpha" in parts:
        alpha, source = parts["alpha"].item(), "tensors"
    if alpha is None:
        alpha, source = rank, f"the rank: {described.unstated}"
    if not abs(alpha) <= MOST_ALPHA:
        raise ConfigError(key, path, f"has an alpha of {alpha} for {layer}", change)
    divisor = math.sqrt(rank) if described.rank_stabilised else rank
    stated = f"alpha {alpha:g} ({source}) / {'square root of ' if described.rank_stabilised else ''}rank {rank}"
    return Adapter(down, up, strength * alpha / divisor, stated)


def _effect(adapters: Adapters, strength: float) -> str:
    """Describe what a LoRA adds: layers by their effective strength, and whole differences."""
    scales = Counter((one.scale, one.stated) for one in adapters.values() if isinstance(one, Adapter))
    shown = scales.most_common(3)
    parts = [f"{n} layers at {scale:g} = strength {strength:g} x {stated}" for (scale, stated), n in shown]
    if others := scales.total() - sum(n for _, n in shown):
        parts.append(f"{others} layers at other strengths")
    if whole := len(adapters) - scales.total():
        parts.append(f"{whole} whole differences at {strength:g}")
    return ", ".join(parts)
