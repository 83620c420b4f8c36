"""Read all common checkpoint formats of Wan, under the names of diffusers, one tensor at a time.

Three steps, each with its table: the container by first bytes (weight_containers), the layout of files and parts
(folders, torch_files), the names (weight_names). Code in a `.pt` never runs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoints.config_json import read_config
from models.checkpoints.containers import Content, check_floats, shard_note
from models.checkpoints.folders import NETWORK_STEMS, open_weights
from models.checkpoints.foreign_kinds import is_of_adapter, refuse_foreign_network
from models.checkpoints.lora_config import LORA_CONFIG, UNSTATED
from models.checkpoints.lora_files import Adapter, Adapters, adapters_of, check_adapters, merge_adapters
from models.checkpoints.safetensors_files import Stored
from models.checkpoints.weight_names import strip_wrappers, to_diffusers
from models.errors import ConfigError
from models.network_config import CONFIGS, WanConfig
from models.wan.network import Wan

Shapes = Mapping[str, tuple[int, ...]]
"""Sizes of tensors, by name."""

PARTS = ("generator_ema", "generator", "model")
"""Networks of a `.pt`: the first that it holds is read unless another is named."""

_BASE = ".base_layer."
"""Mark of peft in the names of a layer's own tensors, beside those of its adapters."""


@dataclass(frozen=True)
class Checkpoint:
    """Describes weights on disk whose headers have been read."""

    path: Path
    stored: Mapping[str, Stored]
    """Sizes and types, by name in diffusers, in the order of `tensors`."""
    original: bool
    """True if the file itself has the original names."""
    config: WanConfig | None
    """Shape of the network by the config.json beside the weights; None without one."""
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    """Call that yields names in diffusers and tensors one by one, so that a rank never holds a whole network."""
    note: str = ""
    """Hint for a checkpoint that does not fit."""


def open_checkpoint(path: Path, key: str, part: str | None = None) -> Checkpoint:
    """Read the headers of a checkpoint in any known format; `part` chooses a network of a `.pt` (see `PARTS`).

    Adapters of peft among the weights are merged. Raises ConfigError, naming `key`, for a missing, damaged or foreign
    file, and for a `.pt` with code.
    """
    content = open_weights(path, key, part, PARTS, NETWORK_STEMS)
    adapters: Adapters = {}
    if any(_BASE in name for name in content.stored):
        content, adapters = _take_apart(content, path, key)
    refuse_foreign_network(content.stored, path, key)
    sizes = check_floats(content.stored, path, key)
    plain = {name: to_diffusers(strip_wrappers(name)) for name in sizes}
    stored: dict[str, Stored] = {}
    for name, size in sizes.items():
        if plain[name] in stored:
            raise ConfigError(key, path, f"holds {plain[name]} twice, once as {name}", f"change {key}")
        stored[plain[name]] = size
    check_adapters(adapters, {name: held.shape for name, held in stored.items()}, key)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        named = ((plain[name], tensor) for name, tensor in content.tensors() if name in plain)
        return merge_adapters(named, adapters)

    # A name of both, as `patch_embedding.weight`, tells nothing.
    original = any(ours != strip_wrappers(name) for name, ours in plain.items())
    # A config.json beside a file of an unusual name may belong to something else.
    usual = path.is_dir() or content.path.name.startswith((NETWORK_STEMS[0], f"{NETWORK_STEMS[1]}."))
    beside = (content.path if content.path.is_dir() else content.path.parent) / "config.json"
    config = read_config(beside, key) if usual and beside.is_file() else None
    return Checkpoint(path, stored, original, config, tensors, shard_note(path))


def _take_apart(content: Content, path: Path, key: str) -> tuple[Content, dict[str, Adapter | Tensor]]:
    """Return the base weights and the adapters of a network that peft has wrapped. Raises ConfigError."""

    def only(wanted: Callable[[str], bool]) -> Content:
        kept = {name: held for name, held in content.stored.items() if wanted(name)}
        return replace(content, stored=kept, tensors=lambda: (pair for pair in content.tensors() if pair[0] in kept))

    base = only(lambda name: not is_of_adapter(name))
    held = only(is_of_adapter)
    if not held.stored:
        return base, {}
    folder = content.path if content.path.is_dir() else content.path.parent
    adapters = adapters_of(held, folder / LORA_CONFIG, key)
    if any(UNSTATED in one.stated for one in adapters.values() if isinstance(one, Adapter)):
        problem = "holds a base and adapters of peft without their alpha"
        fix = f"put its {LORA_CONFIG} beside it, or save the result of merge_and_unload()"
        raise ConfigError(key, path, problem, fix)
    return base, adapters


@cache
def network_shapes(name: str) -> Shapes:
    """Return the tensor sizes of a network of `CONFIGS`, by name in diffusers; allocates nothing."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in Wan(CONFIGS[name]).state_dict().items()}


def recognise_network(checkpoint: Checkpoint) -> str | None:
    """Return the name in `CONFIGS` of the network with a checkpoint's tensors; None where it is none of them."""
    held = {name: stored.shape for name, stored in checkpoint.stored.items()}
    return next((name for name in CONFIGS if network_shapes(name) == held), None)
