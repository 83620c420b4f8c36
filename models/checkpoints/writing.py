"""A checkpoint written for other tools: a folder that diffusers reads, or files under the original names."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from models.atomic_files import flush
from models.checkpoints.config_json import write_config
from models.checkpoints.formats import Checkpoint
from models.checkpoints.lora_files import Adapter, merge_adapters
from models.checkpoints.safetensors_files import Stored, write_tensors
from models.checkpoints.weight_names import to_original
from models.errors import ConfigError
from models.network_config import WanConfig

_STEM = "diffusion_pytorch_model"


def plan_tensors(checkpoint: Checkpoint, original: bool, dtype: torch.dtype | None) -> dict[str, Stored]:
    """Plan the tensors to write, by their new names; without `dtype` in the checkpoint's types."""
    rename = to_original if original else str
    return {rename(name): Stored(held.shape, dtype or held.dtype) for name, held in checkpoint.stored.items()}


def write_checkpoint(
    checkpoint: Checkpoint,
    config: WanConfig,
    out: Path,
    *,
    original: bool,
    dtype: torch.dtype | None = None,
    adapters: Mapping[str, Adapter] | None = None,
    shard_bytes: int,
    on_progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Write one `.safetensors` file, or a folder of shards with index and config.json, holding one tensor at a time.

    `on_progress` gets the bytes of each tensor. `out` appears when all of it is on the disk. Raises ConfigError where
    `out` exists, OSError where the disk fails.
    """
    partial = out.with_name(f".{out.name}.partial")
    require_free(out, partial)
    out.parent.mkdir(parents=True, exist_ok=True)
    plan = plan_tensors(checkpoint, original, dtype)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, (_, tensor) in zip(plan, merge_adapters(checkpoint.tensors(), adapters or {}), strict=True):
            on_progress(plan[name].size)
            yield name, tensor

    try:
        if out.suffix == ".safetensors":
            write_tensors(partial, plan, tensors())
            flush(partial)
        else:
            _write_folder(partial, plan, tensors(), write_config(config, original), shard_bytes)
        require_free(out)
        partial.rename(out)
        flush(out.parent)
    except BaseException:
        # Half a checkpoint is of no use to anybody, and may have filled the disk.
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        raise


def require_free(out: Path, *beside: Path) -> None:
    """Reject an `out` that exists, or whose partial files do (ConfigError)."""
    for path in (out, *beside):
        try:
            exists = path.exists()
        except OSError as error:
            raise ConfigError("out", out, f"cannot be written ({error.strerror})", "change out") from error
        if exists:
            raise ConfigError("out", out, f"{path} exists and is never overwritten", "move it away, or change out")


def split_into_shards(plan: Mapping[str, Stored], shard_bytes: int) -> list[dict[str, Stored]]:
    """Cut the plan, in its order, where a file would exceed `shard_bytes`; a larger tensor has its own file."""
    cut: list[dict[str, Stored]] = []
    size = 0
    for name, stored in plan.items():
        if not cut or size + stored.size > shard_bytes:
            cut.append({})
            size = 0
        cut[-1][name] = stored
        size += stored.size
    return cut


def _write_folder(
    folder: Path, plan: Mapping[str, Stored], tensors: Iterator[tuple[str, Tensor]], config: str, shard_bytes: int
) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    cut = split_into_shards(plan, shard_bytes)
    files = [
        f"{_STEM}{f'-{i:05d}-of-{len(cut):05d}' if len(cut) > 1 else ''}.safetensors" for i in range(1, 1 + len(cut))
    ]
    for file, part in zip(files, cut, strict=True):
        write_tensors(folder / file, part, islice(tensors, len(part)))
    if len(cut) > 1:
        placed = {name: file for file, part in zip(files, cut, strict=True) for name in part}
        total = sum(stored.size for stored in plan.values())
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (folder / f"{_STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for file in (*folder.iterdir(), folder):
        flush(file)
