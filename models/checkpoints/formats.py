"""Read all common checkpoint formats of Wan, under the names of diffusers, one tensor at a time.

A folder of diffusers or its `transformer/`, safetensors in one file or in shards, under diffusers' or the original
names, and the `.pt` of Self-Forcing and its relatives. A `.pt` is read with `weights_only`: code in it never runs.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.config_json import read_config
from models.checkpoints.safetensors_files import DTYPES, Stored, open_safetensors, read_header
from models.checkpoints.weight_names import strip_wrappers, to_diffusers
from models.errors import ConfigError
from models.network_config import CONFIGS, WanConfig
from models.user_paths import is_pickle
from models.wan.network import Wan

Shapes = Mapping[str, tuple[int, ...]]
"""Sizes of tensors, by name."""

PARTS = ("generator_ema", "generator", "model")
"""Networks of a `.pt`: the first that it holds is read unless another is named."""

_STEM = "diffusion_pytorch_model"
_SINGLE = f"{_STEM}.safetensors"
_INDEX = ".safetensors.index.json"
_DOWNLOAD = "copy or download it again"


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


def open_checkpoint(path: Path, key: str, part: str | None = None) -> Checkpoint:
    """Read the headers of a checkpoint in any known format; `part` chooses a network of a `.pt` (see `PARTS`).

    Raises ConfigError, naming `key`, for a missing, damaged or foreign file, and for a `.pt` with code.
    """
    config, loaded, files = None, {}, {}
    if is_pickle(path):
        loaded = read_part(path, key, part, PARTS)
        sizes = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in loaded.items()}
    else:
        if part is not None:
            raise ConfigError(key, path, "is no .pt and holds one network", f"leave part={part} out")
        if path.is_file() and path.suffix not in (".safetensors", ".json"):
            fix = "give a .safetensors file, a .pt, or a folder of diffusers"
            raise ConfigError(key, path, "is no checkpoint", fix)
        files, config = _find_files(path, key)
        sizes = {name: stored for file, names in files.items() for name, stored in names.items()}

    plain = {name: to_diffusers(strip_wrappers(name)) for name in sizes}
    stored: dict[str, Stored] = {}
    for name, size in sizes.items():
        if plain[name] in stored:
            raise ConfigError(key, path, f"holds {plain[name]} twice, once as {name}", f"change {key}")
        stored[plain[name]] = size

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in loaded.items():
            yield plain[name], tensor
        for file, names in files.items():
            with open_safetensors(file, key) as content:
                for name in names:
                    yield plain[name], content.get_tensor(name)

    # A name of both, as `patch_embedding.weight`, tells nothing.
    original = any(ours != strip_wrappers(name) for name, ours in plain.items())
    return Checkpoint(path, stored, original, config, tensors)


def read_part(path: Path, key: str, part: str | None, usual: tuple[str, ...]) -> dict[str, Tensor]:
    """Map the tensors of one network of a `.pt`: `part`, all of a file of one network, or the first of `usual`.

    No tensor is read before its use. Raises ConfigError, naming `key`.
    """
    if not path.is_file():
        raise ConfigError(key, path, "does not exist", "give the path of a checkpoint, a file or a folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        raise ConfigError(
            key, path,
            f"holds more than tensors ({culprit[1] if culprit else 'no plain pickle'}), which could run code, and was "
            "not opened", "save its state dict alone, as safetensors, where you trust it",
        ) from error  # fmt: skip
    except Exception as error:  # a damaged pickle raises whatever its instructions happen to lead to
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if "mmap can only be used" in reason:
            reason = "written by torch before 1.6, or no torch file"
        raise ConfigError(key, path, f"cannot be read ({reason})", "copy, download or save it again") from error
    if not isinstance(content, Mapping):
        raise ConfigError(key, path, f"holds a {type(content).__name__} and no weights by name", f"change {key}")
    if part is None and _is_state_dict(content):
        state = content
    else:
        candidates = usual if part is None else (part,)
        name = next((name for name in candidates if name in content), None)
        names = ", ".join(str(name) for name, value in content.items() if _is_state_dict(value)) or "none"
        fix = f"change {key} or part"
        if name is None:
            raise ConfigError(key, path, f"has no {' or '.join(candidates)}; networks in it: {names}", fix)
        state = content[name]
        if not _is_state_dict(state):  # the next of the usual would be another network than was meant
            raise ConfigError(key, path, f"holds a {name} that is no network of tensors; networks in it: {names}", fix)
    for name, tensor in state.items():
        if tensor.dtype not in DTYPES.values() or tensor.layout != torch.strided:
            raise ConfigError(key, path, f"holds {name} as {tensor.dtype}", "give float32, bfloat16 or float16")
    return dict(state)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _find_files(path: Path, key: str) -> tuple[dict[Path, dict[str, Stored]], WanConfig | None]:
    """Return headers of the safetensors files that a path means, and the config.json beside them."""
    folder, file = path.parent, path
    if path.is_dir():
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        candidates = (folder / f"{_SINGLE}.index.json", folder / _SINGLE)
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise ConfigError(key, path, f"holds no {_SINGLE}, nor its index", "give a folder of diffusers, or a file")
    config = folder / "config.json"
    # The config.json beside a file of any other name may belong to something else.
    described = read_config(config, key) if config.is_file() and file.name.startswith(_STEM) else None
    if not file.name.endswith(_INDEX):
        return {file: read_header(file, key)}, described
    try:
        placed = json.loads(file.read_text())["weight_map"]
        names = sorted(set(placed.values()))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(key, None, f"{file} is no index of shards ({error!r})", _DOWNLOAD) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            problem = f"{file} names the shard {name!r}, which does not lie beside it"
            raise ConfigError(key, None, problem, f"change {key}")
        if not (folder / name).is_file():
            raise ConfigError(key, None, f"{folder} lacks {name}, which its index names", _DOWNLOAD)
    headers = {folder / name: read_header(folder / name, key) for name in names}
    held = [(name, shard.name) for shard, header in headers.items() for name in header]
    if differing := sorted(set(held) ^ set(placed.items())):  # a file holds exactly the tensors that its index gives it
        name, shard = differing[0]
        problem = f"{name} in {shard} is only in one of them ({len(differing)} such tensors)"
        raise ConfigError(key, None, f"{file} does not fit its shards: {problem}", "copy or download all of it again")
    return headers, described


@cache
def network_shapes(name: str) -> Shapes:
    """Return the tensor sizes of a network of `CONFIGS`, by name in diffusers; allocates nothing."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in Wan(CONFIGS[name]).state_dict().items()}


def recognise_network(checkpoint: Checkpoint) -> str | None:
    """Return the name in `CONFIGS` of the network with a checkpoint's tensors; None where it is none of them."""
    held = {name: stored.shape for name, stored in checkpoint.stored.items()}
    return next((name for name in CONFIGS if network_shapes(name) == held), None)
