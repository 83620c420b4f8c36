"""Read a network's weights from any checkpoint, and write them as safetensors with their origin."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models.atomic_files import atomic_file
from models.checkpoints.checksums import CHECKSUM, verify_file, weights_checksum
from models.checkpoints.config_json import config_misfit
from models.checkpoints.containers import indexed_files
from models.checkpoints.folders import NETWORK_STEMS, weights_files
from models.checkpoints.formats import Checkpoint, Shapes, open_checkpoint, recognise_network
from models.checkpoints.lora_files import Adapters, check_adapters, merge_adapters
from models.checkpoints.safetensors_files import FORMAT, Stored, first_names, open_safetensors, write_tensors
from models.checkpoints.weight_containers import INDEX, SAFETENSORS, require_container
from models.checkpoints.weight_names import to_original
from models.errors import ConfigError
from models.network_config import CONFIGS
from models.wan.network import Wan


def save_weights(tensors: Mapping[str, Tensor], path: Path, origin: Mapping[str, object]) -> None:
    """Write `tensors` under their names (diffusers'); `origin` (seed, updates, last losses) goes into the header.

    With it goes a checksum of tensors and origin, for `verify_weights`. No second copy of the tensors is made.
    """
    header = FORMAT | {name: str(value) for name, value in origin.items()}
    ordered = ((name, tensors[name].detach().cpu().contiguous()) for name in sorted(tensors))
    checksum = weights_checksum(header, ordered)
    planned = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with atomic_file(path) as partial:
        write_tensors(partial, planned, tensors.items(), metadata=header | {CHECKSUM: checksum})


def load_weights(
    module: nn.Module,
    path: Path,
    key: str,
    part: str | None = None,
    adapters: Adapters | None = None,
) -> None:
    """Fill `module` from a checkpoint of any known format, tensor by tensor, with `adapters` merged in.

    `key` is the configuration key to change; `part` chooses a network of a `.pt`. Raises ConfigError for a partial fit,
    before the module is changed, and for numbers that are not finite.
    """
    checkpoint = open_checkpoint(path, key, part)
    check_network_fit(checkpoint, key, module)
    targets = module.state_dict()
    if adapters:
        check_adapters(adapters, {name: tuple(target.shape) for name, target in targets.items()})
    with torch.no_grad():
        for name, tensor in merge_adapters(checkpoint.tensors(), adapters or {}):
            if not tensor.isfinite().all():
                raise ConfigError(key, path, f"is damaged: {name} has numbers that are not finite", "download it again")
            targets[name].copy_(tensor)


def stored_tensors(path: Path, part: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Read names in diffusers and tensors one at a time: a rank fills its shards and holds no more."""
    return open_checkpoint(path, "path", part).tensors()


def check_weights(path: Path, key: str, module: nn.Module, part: str | None = None) -> None:
    """Reject a file as `load_weights` does, by its headers alone; `module` may be on "meta".

    Raises ConfigError, which names the model of the weights where they are another network of `CONFIGS`.
    """
    checkpoint = open_checkpoint(path, key, part)
    try:
        check_network_fit(checkpoint, key, module)
    except ConfigError as error:
        name = recognise_network(checkpoint)
        if name is None or not isinstance(module, Wan) or module.config == CONFIGS[name]:
            raise
        world = "tiny" if name.startswith("tiny") else "wan_1_3b"
        model = f"teacher_model={name}" if key == "teacher" else f"preset={world} student.model={name}"
        raise ConfigError(
            key, path, f"it holds {name}, which is another network", f"change {key}, or write {model}"
        ) from error


def check_network_fit(checkpoint: Checkpoint, key: str, module: nn.Module) -> None:
    """Reject a checkpoint that lacks weights of `module`, has others or is of another network (ConfigError)."""
    described = checkpoint.config if isinstance(module, Wan) else None
    if described is not None and (difference := config_misfit(module.config, described)):
        problem = f"does not fit the network: its config.json has {difference}"
        raise ConfigError(key, checkpoint.path, problem, f"change {key}")
    rename = to_original if checkpoint.original else str
    expected = {rename(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    stored = {rename(name): stored.shape for name, stored in checkpoint.stored.items()}
    if difference := shape_misfit(expected, stored):
        problem = f"does not fit the network{checkpoint.note}: it {difference}"
        raise ConfigError(key, checkpoint.path, problem, f"change {key}")


def verify_weights(path: Path, key: str) -> bool:
    """Check the checksums of a file, or of all shards of a folder or index; returns False where they carry none.

    Raises ConfigError, naming `key`, where the content does not match, or where only some of the shards carry one.
    """
    files = weights_files(path, key, NETWORK_STEMS)
    if require_container(files[0], key) == INDEX:
        files = indexed_files(files[0], key)
    bare = [one.name for one in files if require_container(one, key) != SAFETENSORS or not verify_file(one, key)]
    if 0 < len(bare) < len(files):
        problem = f"holds shards of several origins: {first_names(bare)} carries no checksum, and the others do"
        raise ConfigError(key, path, problem, "copy or convert all of it again")
    return not bare


def read_shapes(path: Path, key: str) -> dict[str, tuple[int, ...]]:
    """Read a file's tensor sizes from its header. Raises ConfigError, naming `key`, for a bad file."""
    return {name: stored.shape for name, stored in open_safetensors(path, key).stored.items()}


def shape_misfit(expected: Shapes, given: Shapes) -> str | None:
    """Describe how `given` differs from `expected` by the first tensors; return None if it does not."""
    missing, unexpected = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    resized = sorted(name for name in expected.keys() & given.keys() if expected[name] != given[name])
    problems = (("lacks", missing), ("has the unknown", unexpected), ("has other sizes for", resized))
    return "; it ".join(f"{problem} {first_names(names)}" for problem, names in problems if names) or None
