"""Read safetensors files by their headers with errors that name a key, and write them one tensor at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoints.weight_containers import SAFETENSORS, UNQUANTIZED, require_container
from models.errors import ConfigError

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of stored weights. Eight bits mean nothing without scales, which every tool stores in its own way."""

_TYPES = FLOATS | {
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
}  # fmt: skip
FORMAT = {"format": "pt"}
"""Metadata that diffusers and transformers expect in a header."""
_QUANTIZED = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
"""Types of the format that no weights of ours have, some smaller than a byte."""
_TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Stored:
    """Gives size and type of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Return the bytes of the tensor."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class SafetensorsFile:
    """Describes a whole safetensors file, whose header has been read and whose size is right."""

    path: Path
    key: str
    stored: Mapping[str, Stored]
    metadata: Mapping[str, str]
    places: Mapping[str, int]
    """First byte of each tensor in the file."""

    def tensors(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Read tensors one by one, by default all; no file is mapped, which memory limits may forbid for large ones.

        Raises ConfigError where the file has become shorter.
        """
        with self.path.open("rb") as file:
            for name in self.stored if names is None else names:
                stored = self.stored[name]
                tensor = torch.empty(stored.shape, dtype=stored.dtype)
                file.seek(self.places[name])
                if file.readinto(tensor.reshape(-1).view(torch.uint8).numpy()) != stored.size:
                    raise ConfigError(self.key, self.path, "is no whole safetensors file any more", _AGAIN)
                yield name, tensor


def open_safetensors(path: Path, key: str) -> SafetensorsFile:
    """Read the header of a file. Raises ConfigError, naming `key`, for a missing, damaged or foreign one."""
    if (kind := require_container(path, key)) != SAFETENSORS:
        raise ConfigError(key, path, f"is no safetensors file but a {kind}", f"change {key}")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if 8 + length > size:
                raise ValueError("incomplete header")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        stored, places, end = {}, {}, 0
        for name, entry in sorted(header.items(), key=lambda entry: tuple(entry[1]["data_offsets"])):
            begin, following = entry["data_offsets"]
            if entry["dtype"] in _QUANTIZED:
                problem = f"holds {name} as {entry['dtype']}: quantized weights are not read"
                raise ConfigError(key, path, problem, UNQUANTIZED)
            held = Stored(tuple(entry["shape"]), _TYPES[entry["dtype"]])
            if begin != end or following - begin != held.size or any(type(x) is not int or x < 0 for x in held.shape):
                raise ValueError(f"{name} does not fill its place")
            stored[name], places[name], end = held, 8 + length + begin, following
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata that is no text")
    except ConfigError:
        raise
    except KeyError as error:
        raise ConfigError(key, path, f"is no safetensors file that can be read ({error} unknown)", _AGAIN) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ConfigError(key, path, f"is no whole safetensors file ({error})", _AGAIN) from error
    if (whole := 8 + length + end) > size:
        raise ConfigError(key, path, f"is no whole safetensors file: it ends after {size} of {whole} bytes", _AGAIN)
    if whole < size:
        fix = f"cut them off with truncate -s {whole}, or download it again"
        raise ConfigError(key, path, f"has {size - whole} surplus bytes behind its tensors", fix)
    return SafetensorsFile(path, key, {name: stored[name] for name in header}, metadata, places)


def write_tensors(
    path: Path,
    planned: Mapping[str, Stored],
    tensors: Iterable[tuple[str, Tensor]],
    on_progress: Callable[[int], None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` in the order of `planned`, cast to its types, holding one at a time.

    `on_progress` gets the bytes of each, the header `metadata`. The safetensors library would hold a whole file in
    memory. Raises OSError.
    """
    header: dict[str, object] = {"__metadata__": FORMAT | (metadata or {})}
    end = 0
    for name, stored in planned.items():
        start, end = end, end + stored.size
        header[name] = {
            "dtype": _TYPE_NAMES[stored.dtype], "shape": list(stored.shape), "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the first tensor aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, stored), (given, tensor) in zip(planned.items(), tensors, strict=True):
            assert (name, stored.shape) == (given, tuple(tensor.shape)), (name, stored.shape, given, tensor.shape)
            tensor = tensor.detach().cpu().to(stored.dtype).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy())
            if on_progress is not None:
                on_progress(stored.size)


def first_names(names: Sequence[str]) -> str:
    """List the first of `names`, and the number of the others."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
