"""Weights of a network: read from any checkpoint, and written as safetensors with their origin in the header."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from models.atomic_files import write_whole
from models.checkpoints.config_json import config_misfit
from models.checkpoints.formats import Checkpoint, open_checkpoint
from models.checkpoints.lora_files import Adapter, check_adapters, merge_adapters
from models.checkpoints.safetensors_files import first_names, open_safetensors
from models.checkpoints.weight_names import to_original
from models.errors import ConfigError
from models.user_paths import is_pickle
from models.wan.network import Wan

Shapes = Mapping[str, tuple[int, ...]]
"""Sizes of tensors, by name."""

_CHECKSUM = "longtake.sha256"


def save_weights(tensors: Mapping[str, Tensor], path: Path, origin: Mapping[str, object]) -> None:
    """Write `tensors` under their names (diffusers'); `origin` (seed, updates, last losses) goes into the header.

    With it goes a checksum of tensors and origin, for `verify_weights`.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {name: str(value) for name, value in origin.items()}
    checksum = _checksum(header, sorted(held.items()))
    write_whole(path, save(held, metadata=header | {_CHECKSUM: checksum}))


def load_weights(
    module: nn.Module,
    path: Path,
    key: str,
    part: str | None = None,
    adapters: Mapping[str, Adapter] | None = None,
) -> None:
    """Fill `module` from a checkpoint of any known format, tensor by tensor, with `adapters` merged in.

    `key` is the configuration key to change: a partial fit is refused by name and leaves the module as it was. `part`
    chooses a network of a `.pt`. Raises ValueError.
    """
    checkpoint = open_checkpoint(path, key, part)
    check_network_fit(checkpoint, key, module)
    targets = module.state_dict()
    if adapters:
        check_adapters(adapters, {name: tuple(target.shape) for name, target in targets.items()})
    with torch.no_grad():
        for name, tensor in merge_adapters(checkpoint.tensors(), adapters or {}):
            targets[name].copy_(tensor)


def stored_tensors(path: Path, part: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Names in diffusers and tensors of a checkpoint, read one at a time: a rank fills its shards and holds no more."""
    return open_checkpoint(path, "path", part).tensors()


def check_weights(path: Path, key: str, module: nn.Module, part: str | None = None) -> None:
    """Refuse what `load_weights` would, in one sentence. Reads headers only; `module` may be on "meta"."""
    check_network_fit(open_checkpoint(path, key, part), key, module)


def check_network_fit(checkpoint: Checkpoint, key: str, module: nn.Module) -> None:
    """Refuse a checkpoint that lacks weights of `module`, has others or is of another network. Raises ValueError."""
    described = checkpoint.config if isinstance(module, Wan) else None
    if described is not None and (difference := config_misfit(module.config, described)):
        raise ConfigError(key, checkpoint.path, f"its config.json has {difference}", f"change {key}")
    rename = to_original if checkpoint.original else str
    wanted = {rename(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {rename(name): stored.shape for name, stored in checkpoint.stored.items()}
    if difference := shape_misfit(wanted, found):
        raise ConfigError(key, checkpoint.path, f"it does not fit the network: it {difference}", f"change {key}")


def verify_weights(path: Path, key: str) -> bool:
    """Whether `path` carries a checksum; foreign files and folders do not. Reads all of it where it does.

    Raises ValueError, naming `key`, where the content is another than that of the checksum.
    """
    if path.is_dir() or is_pickle(path) or path.suffix == ".json":
        return False
    with open_safetensors(path, key) as file:
        header = dict(file.metadata() or {})
        recorded = header.pop(_CHECKSUM, None)
        if recorded is None:
            return False
        found = _checksum(header, ((name, file.get_tensor(name)) for name in sorted(file.keys())))
    if found != recorded:
        raise ValueError(f"{key}: {path} is damaged (its checksum does not match); copy it again, or remove it")
    return True


def read_shapes(path: Path, key: str) -> dict[str, tuple[int, ...]]:
    """What a file holds, from its header. Raises ValueError, naming `key`, for a missing or damaged one."""
    with open_safetensors(path, key) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def shape_misfit(wanted: Shapes, found: Shapes) -> str | None:
    """How `found` differs from `wanted`, with the names of the first tensors that do; None where it does not."""
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    resized = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    problems = (("lacks", missing), ("has the unknown", unexpected), ("has other sizes for", resized))
    return "; it ".join(f"{problem} {first_names(names)}" for problem, names in problems if names) or None


def _checksum(header: dict[str, str], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of the header and of each tensor in the order given, with its name: not of the layout of a file."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
