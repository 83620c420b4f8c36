"""Weights on disk: safetensors, with their origin in the header. Nothing is ever unpickled."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

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


def load_weights(module: nn.Module, path: Path, key: str) -> None:
    """Fill `module` from `path`; a partial fit is refused by name, and `key` is the configuration key to change."""
    check_weights(path, key, module)
    module.load_state_dict(load_file(path))


def stored_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a file, read one at a time: each rank fills its shard without holding a whole network."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush and rename: a kill or a power cut leaves the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Return when the disk has what was written to a file, or what was renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_weights(path: Path, key: str, module: nn.Module) -> None:
    """Refuse a missing, damaged or foreign file in one sentence. Reads the header only; `module` may be on "meta"."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if difference := misfit(wanted, read_shapes(path, key)):
        raise ValueError(f"{path} does not fit the network: it {difference}; change {key}")


def verify_weights(path: Path, key: str) -> bool:
    """Whether `path` carries a checksum; foreign files do not. Reads all of it where it does.

    Raises ValueError, naming `key`, where the content is another than that of the checksum.
    """
    with _opened(path, key) as file:
        header = dict(file.metadata() or {})
        recorded = header.pop(_CHECKSUM, None)
        if recorded is None:
            return False
        found = _checksum(header, ((name, file.get_tensor(name)) for name in sorted(file.keys())))
    if found != recorded:
        raise ValueError(f"{key}: {path} is damaged (its checksum does not match); copy it again, or remove it")
    return True


def read_origin(path: Path) -> dict[str, str]:
    """The origin that `save_weights` wrote into the header."""
    with safe_open(path, framework="pt") as file:
        return {name: value for name, value in (file.metadata() or {}).items() if name != _CHECKSUM}


def read_shapes(path: Path, key: str) -> dict[str, tuple[int, ...]]:
    """What a file holds, from its header. Raises ValueError, naming `key`, for a missing or damaged one."""
    with _opened(path, key) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def misfit(wanted: Shapes, found: Shapes) -> str | None:
    """How `found` differs from `wanted`, with the names of the first tensors that do; None where it does not."""
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    resized = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    for problem, names in (("lacks", missing), ("has the unknown", unexpected), ("has other sizes for", resized)):
        if names:
            return f"{problem} {_some(names)}"
    return None


@contextmanager
def _opened(path: Path, key: str) -> Iterator[safe_open]:
    if not path.is_file():
        raise ValueError(f"{key}={path} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{key}={path} is no whole safetensors file ({error}); copy or download it again") from error


def _checksum(header: dict[str, str], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of the header and of each tensor in the order given, with its name: not of the layout of a file."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
