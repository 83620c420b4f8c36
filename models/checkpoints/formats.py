"""Every checkpoint of Wan that people have, as names of diffusers and tensors read one at a time.

A folder of diffusers or its `transformer/`, safetensors whole or in shards, under diffusers' or the original names, and
the `.pt` of Self-Forcing and its relatives. A `.pt` is read with `weights_only`: code in it is refused, never run.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.config_json import read_config
from models.checkpoints.safetensors_files import DTYPES, Stored, open_safetensors, read_header
from models.checkpoints.weight_names import is_original, strip_wrappers, to_diffusers
from models.network_config import WanConfig
from models.user_paths import is_pickle

PARTS = ("generator_ema", "generator", "model")
"""Of a `.pt` that holds several networks, the first of these is read unless another is asked for."""

_STEM = "diffusion_pytorch_model"
_WHOLE = f"{_STEM}.safetensors"
_INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, headers read."""

    path: Path
    stored: Mapping[str, Stored]
    """Sizes and types, by name in diffusers, in the order in which `tensors` gives them."""
    original: bool
    """Whether the file itself has the original names."""
    config: WanConfig | None
    """Of the config.json beside the weights."""
    read: Callable[[], Iterator[tuple[str, Tensor]]]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names in diffusers and tensors, one at a time: a rank fills its shards without holding a whole network."""
        return ((to_diffusers(strip_wrappers(name)), tensor) for name, tensor in self.read())


def open_checkpoint(path: Path, key: str, part: str | None = None) -> Checkpoint:
    """Read the headers of a checkpoint in any known format; `part` chooses a network of a `.pt` (see `PARTS`).

    Raises ValueError, in one line that names `key`, for a missing, damaged or foreign one, and for a `.pt` with code.
    """
    if is_pickle(path):
        chosen = read_part(path, key, part, PARTS)
        sizes = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in chosen.items()}
        return _named(path, key, sizes, lambda: iter(chosen.items()), None)
    if part is not None:
        raise ValueError(f"{key}={path} is no .pt and holds one network; leave part={part} out")
    if path.is_file() and path.suffix not in (".safetensors", ".json"):
        raise ValueError(f"{key}={path} is no checkpoint; give a .safetensors file, a .pt, or a folder of diffusers")
    files, config = _find(path, key)
    sizes = {name: stored for file, names in files.items() for name, stored in names.items()}

    def read() -> Iterator[tuple[str, Tensor]]:
        for file, names in files.items():
            with open_safetensors(file, key) as tensors:
                for name in names:
                    yield name, tensors.get_tensor(name)

    return _named(path, key, sizes, read, config)


def read_part(path: Path, key: str, part: str | None, usual: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of one network of a `.pt`: `part`, or all of a file of one network, or the first of the `usual`.

    The file is mapped: nothing is read until it is used. Raises ValueError, naming `key`.
    """
    held = _unpickled(path, key)
    if part is None and _is_plain(held):
        chosen = held
    else:
        wanted = usual if part is None else (part,)
        name = next((name for name in wanted if name in held), None)
        names = ", ".join(str(name) for name, value in held.items() if _is_plain(value)) or "none"
        if name is None:
            raise ValueError(
                f"{key}={path} has no {' or '.join(wanted)}; networks in it: {names}; change {key} or part"
            )
        chosen = held[name]
        if not _is_plain(chosen):  # the next of the usual would be another network than was meant
            raise ValueError(
                f"{key}={path} holds a {name} that is no network of tensors; networks in it: {names}; change {key} or "
                "part"
            )
    for name, tensor in chosen.items():
        if tensor.dtype not in DTYPES.values() or tensor.layout != torch.strided:
            raise ValueError(f"{key}={path} holds {name} as {tensor.dtype}; give float32, bfloat16 or float16")
    return dict(chosen)


def _unpickled(path: Path, key: str) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"{key}={path} does not exist; give the path of a checkpoint, a file or a folder")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{key}={path} holds more than tensors ({culprit[1] if culprit else 'no plain pickle'}), which could run "
            "code, and was not opened; save its state dict alone, as safetensors, where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its instructions happen to lead to
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if "mmap can only be used" in reason:
            reason = "written by torch before 1.6, or no torch file"
        raise ValueError(f"{key}={path} cannot be read ({reason}); copy, download or save it again") from error
    if not isinstance(held, Mapping):
        raise ValueError(f"{key}={path} holds a {type(held).__name__} and no weights by name; change {key}")
    return held


def _is_plain(held: Any) -> bool:
    """Whether this is a state dict and nothing else."""
    return (
        isinstance(held, Mapping)
        and bool(held)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items())
    )


def _find(path: Path, key: str) -> tuple[dict[Path, dict[str, Stored]], WanConfig | None]:
    """Headers of the safetensors files that a path means, and the config.json beside them."""
    folder, file = path.parent, path
    if path.is_dir():
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        candidates = (folder / f"{_WHOLE}.index.json", folder / _WHOLE)
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise ValueError(f"{key}={path} holds no {_WHOLE}, nor its index; give a folder of diffusers, or a file")
    config = folder / "config.json"
    # Beside a file of any other name lies, perhaps, the config.json of something else.
    described = read_config(config, key) if config.is_file() and file.name.startswith(_STEM) else None
    return (_shards(file, key) if file.name.endswith(_INDEX) else {file: read_header(file, key)}), described


def _shards(index: Path, key: str) -> dict[Path, dict[str, Stored]]:
    """Headers of all the files of an index, which must hold what it says."""
    try:
        placed = json.loads(index.read_text())["weight_map"]
        names = sorted(set(placed.values()))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{key}: {index} is no index of shards ({error!r}); copy or download it again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{key}: {index} names the shard {name!r}, which does not lie beside it; change {key}")
        if not (index.parent / name).is_file():
            raise ValueError(f"{key}: {index.parent} lacks {name}, which its index names; copy or download it again")
    headers = {index.parent / name: read_header(index.parent / name, key) for name in names}
    held = [(name, file.name) for file, header in headers.items() for name in header]
    if differing := sorted(set(held) ^ set(placed.items())):
        name, file = differing[0]
        raise ValueError(
            f"{key}: {index} does not fit its shards: {name} in {file} is only in one of them ({len(differing)} such "
            "tensors); copy or download all of it again"
        )
    return headers


def _named(
    path: Path,
    key: str,
    sizes: Mapping[str, Stored],
    read: Callable[[], Iterator[tuple[str, Tensor]]],
    config: WanConfig | None,
) -> Checkpoint:
    stored: dict[str, Stored] = {}
    for name, size in sizes.items():
        plain = to_diffusers(strip_wrappers(name))
        if plain in stored:
            raise ValueError(f"{key}={path} holds {plain} twice, once as {name}; change {key}")
        stored[plain] = size
    return Checkpoint(path, stored, any(is_original(strip_wrappers(name)) for name in sizes), config, read)
