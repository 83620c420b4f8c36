"""Open the tensors of a file or of shards, in any container, under the names that they have there."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path

from torch import Tensor

from models.checkpoints.safetensors_files import FLOATS, Stored, first_names, open_safetensors
from models.checkpoints.torch_files import read_part
from models.checkpoints.weight_containers import INDEX, TORCH, UNQUANTIZED, all_shard_names, require_container
from models.errors import ConfigError
from models.file_kinds import read_text

_DOWNLOAD = "copy or download it again"
_MARKERS = ("scaled_fp8", "spiece_model")
"""Tensors that hold no weights: a mark of 8-bit files, which 16-bit ones may keep, and a tokenizer."""


@dataclass(frozen=True)
class Content:
    """Describes tensors on disk whose headers have been read."""

    path: Path
    """File, or index of shards."""
    stored: Mapping[str, Stored]
    metadata: Mapping[str, str]
    """Text in the header of a safetensors file."""
    part: str | None
    """Name of the part of a file of torch.save that was read; None for a whole file."""
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    """Call that yields names and tensors one by one, so that a process never holds a whole network."""
    others: Sequence[str] = ()
    """Names of the parts of a file of torch.save that were not read."""


def open_content(path: Path, key: str, part: str | None, usual: Sequence[str]) -> Content:
    """Read the headers of a file, or of the shards that an index names.

    `part` chooses from a file of torch.save; without it the first of `usual` does. Raises ConfigError, naming `key`.
    """
    kind = require_container(path, key)
    if kind == TORCH:
        name, state, others = read_part(path, key, part, usual)
        stored = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        return Content(path, stored, {}, name, lambda: iter(state.items()), others)
    if part is not None and key != "lora":
        raise ConfigError(key, path, "is no .pt and holds one network", f"leave part={part} out")
    if kind == INDEX:
        return _open_index(path, key)
    file = open_safetensors(path, key)
    return Content(path, file.stored, file.metadata, None, file.tensors)


def open_shards(path: Path, files: Iterable[Path], key: str) -> Content:
    """Read the headers of all shards of one network; `path` names it in errors. Raises ConfigError, naming `key`."""
    contents = [open_content(file, key, None, ()) for file in files]
    stored: dict[str, Stored] = {}
    for content in contents:
        if twice := sorted(stored.keys() & content.stored.keys()):
            problem = f"holds {first_names(twice)} in several shards"
            raise ConfigError(key, path, problem, "take all shards from one download")
        stored |= content.stored

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for content in contents:
            yield from content.tensors()

    return Content(path, stored, {}, None, tensors)


def all_shards(file: Path, key: str) -> list[Path]:
    """List the shards that belong to a file -0000k-of-0000n; [] for any other file.

    Raises ConfigError, naming `key`, if one is missing.
    """
    shards = [file.with_name(name) for name in all_shard_names(file.name)]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ConfigError(key, None, f"{file.parent} lacks {first_names(missing)}", _DOWNLOAD)
    return shards


def shard_note(path: Path) -> str:
    """Describe a file that is one shard of several; empty for any other."""
    shards = len(all_shard_names(path.name))
    return f" (one of {shards} shards: give their folder or index)" if shards > 1 else ""


def check_floats(stored: Mapping[str, Stored], path: Path, key: str) -> dict[str, Stored]:
    """Return what is stored but for marks; alphas may be whole numbers.

    Raises ConfigError, naming `key`, for quantized weights.
    """
    weights = {name: held for name, held in stored.items() if name.rpartition(".")[2] not in _MARKERS}
    for name, held in weights.items():
        if held.dtype in FLOATS.values() or name.endswith(".alpha"):
            continue
        dtype = str(held.dtype).removeprefix("torch.")
        kind = "fp8-scaled or " if dtype.startswith("float8") else ""
        problem = f"holds {name} as {dtype}: {kind}quantized weights are not read"
        raise ConfigError(key, path, problem, UNQUANTIZED)
    return weights


def indexed_files(path: Path, key: str) -> list[Path]:
    """List the shards that an index names. Raises ConfigError, naming `key`, if one is missing or is an index."""
    files = [path.with_name(name) for name in sorted(set(shards_by_tensor(path, key).values()))]
    for file in files:
        if not isfile(file):  # False too for a name that no file can have
            raise ConfigError(key, None, f"{path.parent} lacks {file.name}, which its index names", _DOWNLOAD)
        if require_container(file, key) == INDEX:  # perhaps the same one: reading it would never end
            raise ConfigError(key, path, f"names {file.name} as a shard, which is an index of shards", _DOWNLOAD)
    return files


def _open_index(path: Path, key: str) -> Content:
    placed, files = shards_by_tensor(path, key), indexed_files(path, key)
    shards = [(file.name, open_content(file, key, None, ())) for file in files]
    held = [(name, shard) for shard, content in shards for name in content.stored]
    if differing := sorted(set(held) ^ set(placed.items())):  # a file holds exactly the tensors that its index gives it
        name, shard = differing[0]
        problem = f"{name} in {shard} is only in one of them ({len(differing)} such tensors)"
        raise ConfigError(key, None, f"{path} does not fit its shards: {problem}", "copy or download all of it again")
    return open_shards(path, files, key)


def shards_by_tensor(path: Path, key: str) -> dict[str, str]:
    """Read from an index the file name of the shard that holds each tensor. Raises ConfigError, naming `key`."""
    try:
        text = read_text(path, key)
    except OSError as error:
        raise ConfigError(key, path, f"cannot be read ({error.strerror})", _DOWNLOAD) from error
    try:
        placed = dict(json.loads(text)["weight_map"])
        names = sorted(set(placed.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(key, None, f"{path} is no index of shards ({error!r})", _DOWNLOAD) from error
    for name in names:
        if not isinstance(name, str) or not name or Path(name).name != name:
            problem = f"{path} names the shard {name!r}, which does not lie beside it"
            raise ConfigError(key, None, problem, f"change {key}")
    return placed
