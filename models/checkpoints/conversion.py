"""Convert a checkpoint of Wan between formats and names, one tensor at a time.

A converted checkpoint is a folder that diffusers reads, or one file; both may have the original names.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from torch import Tensor

from models.atomic_files import flush, require_writable
from models.checkpoints.checksums import UNSEALED, seal_file
from models.checkpoints.config_json import read_config, write_config
from models.checkpoints.formats import Checkpoint, Shapes, network_shapes, open_checkpoint, recognise_network
from models.checkpoints.lora_files import Adapters, merge_adapters, read_loras
from models.checkpoints.safetensors_files import Stored, write_tensors
from models.checkpoints.weight_files import check_network_fit, shape_misfit, verify_weights
from models.checkpoints.weight_names import to_original
from models.errors import ConfigError
from models.network_config import CONFIGS, WanConfig
from models.user_paths import user_path
from models.wan.network import Wan

_STEM = "diffusion_pytorch_model"


def network_of(checkpoint: Checkpoint, model: str | None) -> WanConfig:
    """Choose the network of a checkpoint: `model`, else that of its config.json, else the known one that it fits.

    Raises ConfigError with the tensors that differ from the nearest known network.
    """
    if model in CONFIGS:
        return CONFIGS[model]
    if model is not None:
        path = user_path(model, "model")
        if not path.is_file():
            raise ConfigError("model", model, "no network and no file", f"write {', '.join(CONFIGS)} or a config.json")
        return read_config(path, "model")
    if checkpoint.config is not None:
        return checkpoint.config
    recognised = recognise_network(checkpoint)
    if recognised is not None:
        return CONFIGS[recognised]
    shapes = {name: stored.shape for name, stored in checkpoint.stored.items()}
    nearest = min(CONFIGS, key=lambda name: _distance(network_shapes(name), shapes))
    misfit = shape_misfit(network_shapes(nearest), shapes)
    problem = f"fits none of {', '.join(CONFIGS)}: as {nearest} it {misfit}"
    raise ConfigError("source", checkpoint.path, problem, "write model=config.json, or change source")


def _distance(known: Shapes, shapes: Shapes) -> tuple[int, int, int]:
    """Compare networks by width, depth and number of other tensors: of a large one most tensors differ from all."""
    sizes = [
        (held.get("patch_embedding.weight", (0,))[0], sum(name.endswith(".norm2.weight") for name in held))
        for held in (known, shapes)
    ]
    width, depth = (abs(ours - theirs) for ours, theirs in zip(*sizes, strict=True))
    return width, depth, len(known.items() ^ shapes.items())


def convert_checkpoint(
    source: Path,
    out: Path,
    *,
    original: bool = False,
    part: str | None = None,
    model: str | None = None,
    dtype: torch.dtype | None = None,
    loras: Sequence[tuple[Path, float]] = (),
    lora_part: str | None = None,
    shard_bytes: int,
) -> None:
    """Write the checkpoint `source` at `out`, under the original names or those of diffusers, and show progress.

    `loras`, each with its strength, are merged. Raises ConfigError before anything is written; failures leave nothing.
    """
    require_free(out)
    checkpoint = open_checkpoint(source, "source", part)
    config = network_of(checkpoint, model)
    with torch.device("meta"):
        outline = Wan(config)
    try:
        check_network_fit(checkpoint, "source", outline)
    except ConfigError as error:
        if model is None:
            raise
        raise ConfigError("model", model, f"source={source} {error.problem}", "change model or source") from error
    verify_weights(source, "source")
    size = sum(stored.size for stored in plan_tensors(checkpoint, original, dtype).values())
    adapters, lines = read_loras(loras, lora_part, {name: held.shape for name, held in checkpoint.stored.items()})
    existing = next(parent for parent in out.parents if parent.exists())
    try:
        require_writable(existing)
    except OSError as error:
        raise ConfigError("out", out, f"cannot be written ({error.strerror})", "change out") from error
    if (free := shutil.disk_usage(existing).free) < size:
        problem = f"needs {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free there"
        raise ConfigError("out", out, problem, "make room, or change out")
    for line in lines:
        print(f"note: {line}", file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(out.name, total=size)
        try:
            write_checkpoint(
                checkpoint, config, out, original=original, dtype=dtype, adapters=adapters, shard_bytes=shard_bytes,
                on_progress=lambda done: progress.advance(task, done),
            )  # fmt: skip
        except OSError as error:
            problem = f"cannot be written ({error.strerror or error}), nothing was left"
            raise ConfigError("out", out, problem, "make room, or change out") from error


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
    adapters: Adapters | None = None,
    shard_bytes: int,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Write one `.safetensors` file, or a folder of shards with index and config.json, holding one tensor at a time.

    Every file carries its checksum. `on_progress` gets the bytes of each tensor. `out` appears when all of it is on the
    disk. Raises ConfigError where `out` exists, OSError where the disk fails.
    """
    partial = out.with_name(f".{out.name}.partial")
    require_free(out, partial)
    out.parent.mkdir(parents=True, exist_ok=True)
    plan = plan_tensors(checkpoint, original, dtype)
    merged = merge_adapters(checkpoint.tensors(), adapters or {})
    tensors = _finite(plan, (tensor for _, tensor in merged))
    try:
        if out.suffix == ".safetensors":
            write_tensors(partial, plan, tensors, on_progress, UNSEALED)
            seal_file(partial, "out")
            flush(partial)
        else:
            partial.mkdir()
            (partial / "config.json").write_text(write_config(config, original))
            cut = split_into_shards(plan, shard_bytes)
            numbers = [f"-{i:05d}-of-{len(cut):05d}" for i in range(1, 1 + len(cut))] if len(cut) > 1 else [""]
            files = [f"{_STEM}{number}.safetensors" for number in numbers]
            for file, part in zip(files, cut, strict=True):
                write_tensors(partial / file, part, islice(tensors, len(part)), on_progress, UNSEALED)
                seal_file(partial / file, "out")
            if len(cut) > 1:
                placed = {name: file for file, part in zip(files, cut, strict=True) for name in part}
                index = {"metadata": {"total_size": sum(s.size for s in plan.values())}, "weight_map": placed}
                (partial / f"{_STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
            for file in (*partial.iterdir(), partial):
                flush(file)
        require_free(out)
        partial.rename(out)
        flush(out.parent)
    except BaseException:
        # Half a checkpoint is of no use to anybody, and may have filled the disk.
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        raise


def _finite(plan: Mapping[str, Stored], tensors: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of a plan. Raises ConfigError for a number that is not finite, as it would be written."""
    for (name, stored), tensor in zip(plan.items(), tensors, strict=True):
        if not tensor.to(stored.dtype).isfinite().all():
            if tensor.isfinite().all():
                raise ConfigError("dtype", stored.dtype, f"{name} has numbers that it cannot hold", "write bfloat16")
            problem = f"{name} has numbers that are not finite"
            raise ConfigError("source", None, problem, "give undamaged weights, and undamaged LoRAs")
        yield name, tensor


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
