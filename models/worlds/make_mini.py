"""Write a Wan of 3 million random weights, with VAE, text encoder, tokenizer and prompts.

python -m models.worlds.make_mini out=FOLDER [seed=N]

The folder is one of diffusers, as a real Wan2.1's, and prompts.txt lies in it. A run on it learns nothing, and passes
through all that a run of Wan2.1 passes through, in minutes on a laptop:
  python train.py preset=wan_mini teacher=FOLDER prompts=FOLDER/prompts.txt
"""

from dataclasses import dataclass

import settings
from models.errors import ConfigError
from models.keys import KeyGroup, key
from models.network_config import WAN_MINI
from models.user_paths import user_path

_VAE_WIDTH = 8


@dataclass(kw_only=True)
class MiniOptions(KeyGroup):
    """Describes where the weights go."""

    out: str | None = key(None, "new folder of the weights and prompts")
    seed: int = key(0, "seed of the weights", ge=0, lt=2**63)

    def __post_init__(self):
        super().__post_init__()
        if not self.out:
            raise ConfigError("out", None, "no path is given", "write out=FOLDER")


def main(options: MiniOptions) -> None:
    """Write the folder and print where it lies. Raises ConfigError for one that exists."""
    out = user_path(options.out, "out").absolute()
    from models.checkpoints.conversion import require_free  # imports torch, which help and mistakes do not wait for
    from models.worlds.random_wan import random_vae, save_random_wan

    partial = out.with_name(f".{out.name}.partial")
    require_free(out, partial)
    try:
        partial.mkdir(parents=True)
        save_random_wan(partial, WAN_MINI, random_vae(_VAE_WIDTH, options.seed), options.seed)
        partial.rename(out)
    except OSError as error:
        raise ConfigError("out", out, f"cannot be written ({error.strerror})", "change out") from error
    print(f"wrote {out}: train.py preset=wan_mini teacher={options.out} prompts={options.out}/prompts.txt")


if __name__ == "__main__":
    settings.command(main, MiniOptions, __doc__)
