"""Open safetensors files with errors that name a key, and write them one tensor at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import ConfigError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of stored weights. Eight bits mean nothing without scales, which every tool stores in its own way."""

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """Gives size and type of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Return the bytes of the tensor."""
        return prod(self.shape) * self.dtype.itemsize


@contextmanager
def open_safetensors(path: Path, key: str) -> Iterator[safe_open]:
    """Open a safetensors file. Raises ConfigError, naming `key`, for a missing, damaged or foreign one."""
    if not path.is_file():
        raise ConfigError(key, path, "does not exist", "give the path of a checkpoint, a file or a folder")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ConfigError(key, path, f"is no whole safetensors file ({error})", "copy or download it again") from error


def read_header(path: Path, key: str) -> dict[str, Stored]:
    """Read sizes and types. Raises ConfigError, naming `key`, for a bad file or one of quantized weights."""
    with open_safetensors(path, key) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        for name, part in slices.items():
            if part.get_dtype() not in DTYPES:
                problem = f"holds {name} as {part.get_dtype()}: quantized weights are not read"
                raise ConfigError(key, path, problem, "give a checkpoint of float32, bfloat16 or float16")
        return {name: Stored(tuple(part.get_shape()), DTYPES[part.get_dtype()]) for name, part in slices.items()}


def write_tensors(
    path: Path,
    planned: Mapping[str, Stored],
    tensors: Iterable[tuple[str, Tensor]],
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Write `tensors` in the order of `planned`, cast to its types, holding one at a time.

    `on_progress` gets the bytes of each. The safetensors library would hold a whole file in memory. Raises OSError.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, stored in planned.items():
        start, end = end, end + stored.size
        header[name] = {
            "dtype": _DTYPE_NAMES[stored.dtype], "shape": list(stored.shape), "data_offsets": [start, end],
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
