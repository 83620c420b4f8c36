"""Find the weights that a folder means: one table of file names, tried in order, then what else lies there."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from models.checkpoints.containers import Content, all_shards, open_content, open_shards
from models.checkpoints.safetensors_files import first_names
from models.checkpoints.weight_containers import WEIGHT_ENDINGS, all_shard_names
from models.errors import ConfigError

NETWORK_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""File names, without endings, of a network: of diffusers and of trainers."""
LORA_STEMS = ("pytorch_lora_weights", "adapter_model")
"""File names, without endings, of a LoRA: of diffusers and of peft."""

_ENDINGS = (
    ".safetensors.index.json", ".safetensors", ".safetensors.index.*.json", "-*-of-*.safetensors", ".*.safetensors",
    ".bin.index.json", ".bin", ".bin.index.*.json", "-*-of-*.bin", ".*.bin",
)  # fmt: skip
"""Endings of a stem: whole index, whole file, variants such as fp16, shards without index; safetensors first."""
_ANY = ("*.index.json", *(f"*{ending}" for ending in WEIGHT_ENDINGS))
"""Any weights, where no usual name lies there."""
OTHER_PARTS = frozenset(
    ("vae", "text_encoder", "text_encoder_2", "tokenizer", "image_encoder", "scheduler", "assets", "google")
)
"""Folders beside a transformer that hold something else."""


def open_weights(path: Path, key: str, part: str | None, usual: Sequence[str], stems: Sequence[str]) -> Content:
    """Open a file, or the weights that a folder means by the file names `stems`; `part` and `usual` as open_content.

    Of a folder of diffusers it is transformer/. Raises ConfigError, naming `key`, with what lies in the folder.
    """
    files = weights_files(path, key, stems)
    return open_content(files[0], key, part, usual) if len(files) == 1 else open_shards(files[0].parent, files, key)


def weights_files(path: Path, key: str, stems: Sequence[str]) -> list[Path]:
    """List the files that `open_weights` opens: one, or all shards of one network. Raises ConfigError."""
    return _files_of(_weights_folder(path, key, stems), key, stems) if path.is_dir() else [path]


def _weights_folder(path: Path, key: str, stems: Sequence[str]) -> Path:
    """Return the folder, in `path` or one level deeper, that holds the weights. Raises ConfigError."""
    if (path / "transformer").is_dir():
        refuse_experts({name for name in ("transformer", "transformer_2") if (path / name).is_dir()}, key, path)
        return path / "transformer"
    if _found(path, stems):
        return path
    try:
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name not in OTHER_PARTS)
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise ConfigError(key, path, f"cannot be read ({error.strerror})", f"change {key}") from error
    holding = [folder for entry in folders for folder in (entry, entry / "transformer") if _found(folder, stems)]
    if len(holding) == 1:
        return holding[0]
    if holding:
        inside = first_names([str(folder.relative_to(path)) for folder in holding])
        raise ConfigError(key, path, f"holds weights in several folders: {inside}", f"write {key}={holding[-1]}")
    for folder in (path, *folders):
        if any(folder.glob("*.distcp")):
            fix = "convert it by torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
            raise ConfigError(key, folder, "is a distributed checkpoint of torch (DCP), which is not read", fix)
    held = f"it has {first_names(names)}" if names else "it is empty"
    expected = " or ".join(f"{stem}.safetensors" for stem in stems[:2])
    raise ConfigError(key, path, f"holds no {expected}, nor other weights: {held}", f"write {key}=FILE, or its folder")


def _files_of(folder: Path, key: str, stems: Sequence[str]) -> list[Path]:
    """Return the weights of a folder: one file, or all shards of one network. Raises ConfigError where several fit."""
    found = _found(folder, stems)
    if not found:
        raise ConfigError(key, folder, "holds no weights", "copy or download it again")
    if several_sets([path.name for path in found]):
        names = first_names([path.name for path in found])
        raise ConfigError(key, folder, f"holds several files of weights: {names}", f"write {key}={found[0]}")
    return all_shards(found[0], key) or found


def _found(folder: Path, stems: Sequence[str]) -> list[Path]:
    """List the files of the first name of the tables that lies in `folder`, dangling links too."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    except OSError:  # no folder: nothing lies in it
        return []
    names = weights_among([entry.name for entry in entries], stems)
    return [entry for entry in entries if entry.name in names]


def weights_among(names: Sequence[str], stems: Sequence[str]) -> list[str]:
    """Choose the names that fit the first fitting pattern of the tables: several for shards, or where none is usual."""
    for pattern in (*(f"{stem}{ending}" for stem in stems for ending in _ENDINGS), *_ANY):
        if found := [name for name in names if fnmatchcase(name, pattern)]:
            return found
    return []


def several_sets(names: Sequence[str]) -> bool:
    """Return whether files of weights are more than one network; all shards of one are one."""
    first_shards = {next(iter(all_shard_names(name)), name) for name in names}
    return len(first_shards) > 1


def refuse_experts(folders: Collection[str], key: str, path: object) -> None:
    """Raise ConfigError, naming `key`, where a repository has two networks for one video, as Wan2.2's."""
    if {"transformer", "transformer_2"} <= set(folders):
        problem = "holds two experts (transformer and transformer_2), as Wan2.2-T2V-A14B, which are no one network"
        raise ConfigError(key, path, problem, f"write {key}={path}/transformer for the first of them alone")
