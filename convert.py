"""Convert checkpoints of Wan from one format into another, one tensor at a time.

python convert.py source=... out=... [key=value ...]

Reads every checkpoint of Wan2.1 that train.py reads, and writes safetensors for diffusers, or for tools that use the
original names. Never overwrites; a file or folder appears under its name when it is whole.
"""

from dataclasses import dataclass

import settings
from models.checkpoints.hub import require_named, weights_path
from models.checkpoints.lora_keys import LoraKeys
from models.checkpoints.weight_containers import WEIGHT_ENDINGS
from models.errors import ConfigError
from models.keys import key
from models.network_config import CONFIGS
from models.user_paths import user_path

FORMATS = ("diffusers", "original")
DTYPES = ("float32", "bfloat16", "float16")
_OTHER_FILES = (*(ending for ending in WEIGHT_ENDINGS if ending != ".safetensors"), ".safetensor")
"""Endings of files that are not written: one that has them is no name for a folder either."""


@dataclass(kw_only=True)
class ConvertOptions(LoraKeys):
    """Describes a conversion."""

    source: str | None = key(
        None, "checkpoint to read: a file, a folder, or a repository of the Hugging Face hub (owner/name)"
    )
    format: str = key("diffusers", "names and config.json in the output: diffusers or original", choices=FORMATS)
    out: str | None = key(
        None, "output: a new folder of shards with config.json, or one new file that ends in .safetensors"
    )
    part: str | None = key(None, "network to read from a .pt; none: generator_ema, else generator, else model")
    dtype: str | None = key(
        None, f"type of the written tensors: {', '.join(DTYPES)}; none: each tensor's own", choices=DTYPES
    )
    shard_gb: float = key(5.0, "largest file of a folder, in 10^9 bytes", gt=0)
    model: str | None = key(
        None, f"network: {', '.join(CONFIGS)}, or a config.json; none: that beside source, or the known one"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("source", "out"):
            if not getattr(self, name):
                raise ConfigError(name, None, "no path is given", f"write {name}=PATH")
        if self.out.endswith(_OTHER_FILES):
            raise ConfigError("out", self.out, "such files are not written", "end it in .safetensors, or name a folder")


def main(options: ConvertOptions) -> None:
    """Convert one checkpoint and print where it lies."""
    require_named(options.source, "source")
    for lora in options.lora_names:
        require_named(lora, "lora")
    import torch  # takes seconds, which help and mistakes do not wait for

    from models.checkpoints.conversion import convert_checkpoint

    out = user_path(options.out, "out").absolute()
    convert_checkpoint(
        weights_path(options.source, "source"), out, original=options.format == "original", part=options.part,
        model=options.model, dtype=getattr(torch, options.dtype) if options.dtype else None,
        loras=options.chosen_loras(), lora_part=options.lora_part,
        shard_bytes=int(options.shard_gb * 1e9),
    )  # fmt: skip
    print(f"wrote {out}" + (", a folder with config.json (one file: end out in .safetensors)" if out.is_dir() else ""))


if __name__ == "__main__":
    settings.command(main, ConvertOptions, __doc__)
