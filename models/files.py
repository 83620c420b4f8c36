"""Weights on disk: safetensors, with their origin in the header. Nothing is ever unpickled."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn


def save_weights(module: nn.Module, path: Path, origin: dict[str, object]) -> None:
    """Write `module` under diffusers' names; `origin` (seed, updates, last losses) goes into the header."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in module.state_dict().items()}
    write_whole(path, save(tensors, metadata={name: str(value) for name, value in origin.items()}))


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
    """Write beside `path` and rename: a killed process leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def check_weights(path: Path, key: str, module: nn.Module) -> None:
    """Refuse a missing, damaged or foreign file in one sentence. Reads the header only; `module` may be on "meta"."""
    if not path.is_file():
        raise ValueError(f"{key}={path} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{key}={path} is no whole safetensors file ({error}); copy or download it again") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    misfit = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    for problem, names in (("lacks", missing), ("has the unknown", unexpected), ("has other sizes for", misfit)):
        if names:
            raise ValueError(f"{path} does not fit the network: it {problem} {_some(names)}; change {key}")


def read_origin(path: Path) -> dict[str, str]:
    """The header that `save_weights` wrote."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
