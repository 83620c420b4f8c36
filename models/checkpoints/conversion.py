"""Convert a checkpoint of Wan between formats and names, one tensor at a time."""

import shutil
from pathlib import Path

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from models.atomic_files import require_writable
from models.checkpoints.config_json import read_config
from models.checkpoints.formats import Checkpoint, network_shapes, open_checkpoint, recognise_network
from models.checkpoints.lora_files import check_adapters, read_adapters
from models.checkpoints.weight_files import check_network_fit, shape_misfit
from models.checkpoints.writing import plan_tensors, require_free, write_checkpoint
from models.errors import ConfigError
from models.network_config import CONFIGS, WanConfig
from models.user_paths import user_path
from models.wan.network import Wan


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
    known = recognise_network(checkpoint)
    if known is not None:
        return CONFIGS[known]
    shapes = {name: stored.shape for name, stored in checkpoint.stored.items()}
    differences = {name: len(network_shapes(name).items() ^ shapes.items()) for name in CONFIGS}
    nearest = min(differences, key=differences.__getitem__)
    misfit = shape_misfit(network_shapes(nearest), shapes)
    problem = f"fits none of {', '.join(CONFIGS)}: as {nearest} it {misfit}"
    raise ConfigError("source", checkpoint.path, problem, "write model=config.json, or change source")


def convert_checkpoint(
    source: Path,
    out: Path,
    *,
    original: bool = False,
    part: str | None = None,
    model: str | None = None,
    dtype: torch.dtype | None = None,
    lora: Path | None = None,
    lora_strength: float = 1.0,
    shard_bytes: int,
) -> None:
    """Write the checkpoint `source` at `out`, under the original names or those of diffusers, and show progress.

    `lora` is merged into the weights. Raises ConfigError before anything is written; nothing is left after a failure.
    """
    require_free(out)
    checkpoint = open_checkpoint(source, "source", part)
    config = network_of(checkpoint, model)
    with torch.device("meta"):
        check_network_fit(checkpoint, "source" if model is None else "model", Wan(config))
    size = sum(stored.size for stored in plan_tensors(checkpoint, original, dtype).values())
    adapters = {} if lora is None else read_adapters(lora, "lora", lora_strength)
    check_adapters(adapters, {name: stored.shape for name, stored in checkpoint.stored.items()})
    existing = next(parent for parent in out.parents if parent.exists())
    try:
        require_writable(existing)
    except OSError as error:
        raise ConfigError("out", out, f"cannot be written ({error.strerror})", "change out") from error
    if (free := shutil.disk_usage(existing).free) < size:
        problem = f"needs {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free there"
        raise ConfigError("out", out, problem, "make room, or change out")
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
