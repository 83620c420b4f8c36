"""Checkpoints of Wan from one format into another, one tensor at a time."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from models.command_line import read_value
from models.keys import key
from models.network_config import CONFIGS, WanConfig
from models.terminal import answer_help

FORMATS = ("diffusers", "original")
DTYPES = ("float32", "bfloat16", "float16")
_OTHER_FILES = (".pt", ".pth", ".bin", ".ckpt", ".gguf", ".sft", ".safetensor")
"""Endings of files that are not written: who gives one does not expect a folder."""


@dataclass(kw_only=True)
class ConvertOptions:
    """What is read, and what becomes of it."""

    source: str | None = key(None, "a folder of diffusers, .safetensors (one, or the index of shards), or a .pt")
    format: str = key("diffusers", "names and config.json of what is written: " + ", ".join(FORMATS))
    out: str | None = key(
        None, "a new folder of shards with config.json, in both formats; or, ending in .safetensors, one new file"
    )
    part: str | None = key(None, "which network of a .pt; without it generator_ema, else generator, else model")
    lora: str | None = key(None, "LoRA file to merge into the weights")
    lora_strength: float = key(1.0, "what the LoRA is multiplied by")
    dtype: str | None = key(None, "; ".join((", ".join(DTYPES), "without it each tensor keeps its own")))
    shard_gb: float = key(5.0, "largest file of a folder, in 10^9 bytes")
    model: str | None = key(
        None, "network: " + ", ".join(CONFIGS) + ", or a config.json; without it that beside source, or what fits"
    )

    def __post_init__(self):
        for name in ("source", "out"):
            if not getattr(self, name):
                raise ValueError(f"{name} is missing; give {name}=PATH")
        if self.out.endswith(_OTHER_FILES):
            raise ValueError(
                f"out={self.out} is no kind of file that is written; end it in .safetensors, or name a folder"
            )
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format} is not known; set format to {' or '.join(FORMATS)}")
        if self.dtype not in (None, *DTYPES):
            raise ValueError(f"dtype={self.dtype} is not known; set dtype to {', '.join(DTYPES)}, or leave it out")
        if not 0 < self.shard_gb < math.inf:
            raise ValueError(f"shard_gb is {self.shard_gb}; it must be above 0 and finite")
        if not math.isfinite(self.lora_strength):
            raise ValueError(f"lora_strength is {self.lora_strength}; it must be finite")


_LINES = [f"  {field.name:<15}{field.metadata['doc']} [{field.default or 'none'}]" for field in fields(ConvertOptions)]
USAGE = "\n".join(
    [
        "python convert.py source=... out=... [key=value ...]",
        "",
        "Reads every checkpoint of Wan2.1 that train.py reads, and writes safetensors for diffusers, or for tools that",
        "use the original names. Never overwrites; what is written appears when it is whole.",
        "",
        "Keys, with their defaults:",
        *_LINES,
    ]
)
if __name__ == "__main__":
    answer_help(lambda: USAGE)

# ruff: noqa: E402  (torch takes seconds to import, help should not)
import shutil

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from models.atomic_files import require_writable
from models.checkpoints.config_json import read_config
from models.checkpoints.formats import Checkpoint, open_checkpoint
from models.checkpoints.known_networks import network_shapes, recognise_network
from models.checkpoints.lora_files import Adapter, check_adapters, read_adapters
from models.checkpoints.weight_files import check_network_fit, shape_misfit
from models.checkpoints.writing import plan_tensors, require_free, write_checkpoint
from models.user_paths import user_path
from models.wan.network import Wan


def parse(arguments: Sequence[str]) -> ConvertOptions:
    """Read `key=value` arguments. Raises ValueError, in one line, for one that cannot be read."""
    kinds = {field.name: field.type for field in fields(ConvertOptions)}
    given = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ValueError(f'"{argument}" cannot be read; write key=value; --help lists every key')
        if name not in kinds:
            raise ValueError(f"{name} is no key of convert.py; --help lists every key")
        given[name] = read_value(name, text, kinds[name])
    return ConvertOptions(**given)


def describe(checkpoint: Checkpoint, model: str | None) -> WanConfig:
    """The network of a checkpoint: the one asked for, that of its config.json, or the known one that it fits.

    Raises ValueError, naming the tensors that differ from the nearest known one.
    """
    if model in CONFIGS:
        return CONFIGS[model]
    if model is not None:
        path = user_path(model, "model")
        if not path.is_file():
            raise ValueError(f"model={model} is none of {', '.join(CONFIGS)} and no config.json; set model to one")
        return read_config(path, "model")
    if checkpoint.config is not None:
        return checkpoint.config
    known = recognise_network(checkpoint)
    if known is not None:
        return CONFIGS[known]
    found = {name: stored.shape for name, stored in checkpoint.stored.items()}
    apart = {}
    for name in CONFIGS:
        wanted = network_shapes(name)
        apart[name] = (len(wanted.items() ^ found.items()), shape_misfit(wanted, found))
    nearest = min(apart, key=lambda name: apart[name][0])
    raise ValueError(
        f"source={checkpoint.path} fits none of {', '.join(CONFIGS)}: as {nearest} it {apart[nearest][1]}; set model "
        "to its config.json, or change source"
    )


def convert(options: ConvertOptions) -> Path:
    """Do what the options ask for; the path that was written. Raises ValueError before anything is written."""
    source, out = user_path(options.source, "source"), user_path(options.out, "out").absolute()
    require_free(out)
    checkpoint = open_checkpoint(source, "source", options.part)
    config = describe(checkpoint, options.model)
    with torch.device("meta"):
        check_network_fit(checkpoint, "source" if options.model is None else "model or source", Wan(config))
    original = options.format == "original"
    dtype = getattr(torch, options.dtype) if options.dtype else None
    size = sum(stored.size for stored in plan_tensors(checkpoint, original, dtype).values())
    adapters = _adapters(options, checkpoint)
    existing = next(parent for parent in out.parents if parent.exists())
    try:
        require_writable(existing)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error.strerror}); change out") from error
    if (free := shutil.disk_usage(existing).free) < size:
        raise ValueError(f"out={out} needs {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free there; change out")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(out.name, total=size)
        try:
            write_checkpoint(
                checkpoint, config, out, original=original, dtype=dtype, adapters=adapters,
                shard_bytes=int(options.shard_gb * 1e9), on_progress=lambda done: progress.advance(task, done),
            )  # fmt: skip
        except OSError as error:
            raise ValueError(
                f"out={out} cannot be written ({error.strerror or error}), nothing was left; make room, or change out"
            ) from error
    return out


def _adapters(options: ConvertOptions, checkpoint: Checkpoint) -> dict[str, Adapter]:
    if options.lora is None:
        return {}
    adapters = read_adapters(user_path(options.lora, "lora"), "lora", options.lora_strength)
    check_adapters(adapters, {name: stored.shape for name, stored in checkpoint.stored.items()}, f"lora={options.lora}")
    return adapters


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, 2 after a user's mistake said in one line, or 130 when stopped."""
    try:
        out = convert(parse(arguments))
        print(
            f"wrote {out}" + (", a folder with config.json (one file: end out in .safetensors)" if out.is_dir() else "")
        )
    except ValueError as error:
        print(f"convert.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert.py: stopped; nothing was left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
