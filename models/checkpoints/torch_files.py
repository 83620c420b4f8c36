"""Read one network, or one set of adapters, of a file of torch.save, without running code of it."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import ConfigError

_PART_KEYS = {"source": "part", "lora": "lora_part"}
"""Key that chooses a part of the file, by the key of the file; other files have none."""


def read_part(
    path: Path, key: str, part: str | None, usual: Sequence[str]
) -> tuple[str | None, dict[str, Tensor], list[str]]:
    """Return one network of a file by name, and the names of its others.

    It is `part`, all of a file of one network, or the first of `usual`. The name is None for all of a file. A file of
    one network under another name than `usual` is not guessed at, but of adapters it is. No tensor is read before its
    use. Raises ConfigError, naming `key`.
    """
    content = _load(path, key)
    if _is_state_dict(content) and (part is None or key == "lora"):  # its adapters may have names of their own
        return None, _checked(content, path, key), []
    held = [str(name) for name, value in content.items() if _is_state_dict(value)]
    candidates = usual if part is None else (part,)
    name = next((name for name in candidates if name in content), None)
    if name is None and part is None and key == "lora" and len(held) == 1:
        name = held[0]
    others = ", ".join(held) or "none"
    fix = _cure(path, key, part, usual, held)
    if name is None:
        raise ConfigError(key, path, f"has no {' or '.join(candidates)}; networks in it: {others}", fix)
    if not _is_state_dict(content[name]):  # the next of the usual would be another network than was meant
        problem = f"holds a {name} that is no network of tensors; networks in it: {others}"
        raise ConfigError(key, path, problem, fix)
    return name, _checked(content[name], path, key), [other for other in held if other != name]


def _cure(path: Path, key: str, part: str | None, usual: Sequence[str], held: Sequence[str]) -> str:
    """Tell how to read a part of `held`: by the key that chooses it, or by convert.py where the command has none."""
    wanted = held[0] if len(held) == 1 else f"one of {', '.join(held)}"
    if not held or (key not in _PART_KEYS and "generator" not in usual):
        return f"change {key}"
    if key in _PART_KEYS:
        return f"write {_PART_KEYS[key]}={wanted}"
    return f"run convert.py source={path} part={wanted} out=NEW.safetensors, and write {key}=NEW.safetensors"


def _load(path: Path, key: str) -> Mapping[Any, Any]:
    try:
        if path.suffix == ".safetensors":  # torch would read a path of this ending as safetensors
            with path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
        else:
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
        fix = "copy, download or save it again"
        if "unable to mmap" in reason:
            fix = "convert it to safetensors on a machine with more memory, or allow overcommitted memory"
        raise ConfigError(key, path, f"cannot be read ({reason})", fix) from error
    if not isinstance(content, Mapping):
        raise ConfigError(key, path, f"holds a {type(content).__name__} and no weights by name", f"change {key}")
    return content


def _is_state_dict(content: Any) -> bool:
    """Return whether all of `content` are tensors by name; alphas of adapters may be numbers."""
    return (
        isinstance(content, Mapping)
        and any(isinstance(value, Tensor) for value in content.values())
        and all(
            isinstance(name, str)
            and (isinstance(value, Tensor) or (name.endswith(".alpha") and isinstance(value, int | float)))
            for name, value in content.items()
        )
    )


def _checked(state: Mapping[str, Any], path: Path, key: str) -> dict[str, Tensor]:
    try:
        tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    except (ValueError, RuntimeError, OverflowError) as error:  # a whole number of more than 64 bits
        raise ConfigError(key, path, f"holds an alpha that is too large ({error})", f"change {key}") from error
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.dtype.is_complex:
            problem = f"holds {name} as {tensor.dtype}, {tensor.layout}"
            raise ConfigError(key, path, problem, "give float32, bfloat16 or float16")
    return tensors
