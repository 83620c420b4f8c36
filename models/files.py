"""Weights on disk: safetensors, with their origin in the header. Nothing is ever unpickled."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn


def save_weights(module: nn.Module, path: Path, origin: dict[str, object]) -> None:
    """Write `module` under diffusers' names; `origin` (seed, updates, last losses) goes into the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in module.state_dict().items()}
    save_file(tensors, path, metadata={name: str(value) for name, value in origin.items()})


def load_weights(module: nn.Module, path: Path, key: str) -> None:
    """Fill `module` from `path`; a partial fit is refused by name, and `key` is the configuration key to change."""
    check_weights(path, key)
    tensors = load_file(path)
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    misfit = sorted(name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape)
    for problem, names in (
        ("lacks", missing),
        ("has the unknown", unexpected),
        ("has other sizes for", misfit),
    ):
        if names:
            raise ValueError(f"{path} does not fit the network: it {problem} {_some(names)}; change {key}")
    module.load_state_dict(tensors)


def check_weights(path: Path, key: str) -> None:
    """Refuse a missing or damaged file in one sentence, before anything starts."""
    if not path.is_file():
        raise ValueError(f"{key}={path} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{key}={path} is no whole safetensors file ({error}); copy or download it again") from error


def read_origin(path: Path) -> dict[str, str]:
    """The header that `save_weights` wrote."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
