"""Declare the keys of commands that merge LoRA files."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints.hub import weights_path
from models.errors import ConfigError
from models.keys import KeyGroup, key


@dataclass(kw_only=True)
class LoraKeys(KeyGroup):
    """Chooses LoRA files and their strengths."""

    lora: str | None = key(
        None, "LoRA file, a folder with one, or a file of the Hugging Face hub, to merge; several as [a,b]"
    )
    lora_strength: Any = key(1.0, "factor on the LoRA's weights; of several LoRAs one number, or one for each: [1,0.5]")
    lora_part: str | None = key(
        None, "set of adapters to read from a file of several; none: its only one, or generator_lora of a .pt"
    )

    def __post_init__(self):
        super().__post_init__()
        strengths = self.lora_strength if isinstance(self.lora_strength, list) else [self.lora_strength]
        for strength in strengths:
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
                raise ConfigError("lora_strength", self.lora_strength, "not finite numbers", "write a number, as 1.0")
        if self.lora is None:
            for name, default in (("lora_strength", 1), ("lora_part", None)):
                if getattr(self, name) != default:
                    raise ConfigError("lora", None, f"{name} needs one", f"write lora=FILE, or leave {name} out")
        elif isinstance(self.lora_strength, list) and len(strengths) != len(self.lora_names):
            problem = f"{len(strengths)} numbers for {len(self.lora_names)} LoRAs"
            raise ConfigError("lora_strength", self.lora_strength, problem, "write a number, or one for each LoRA")

    @property
    def lora_names(self) -> list[str]:
        """Return the given names: one, or those of a list in brackets, between quotes where they have commas."""
        if self.lora is None:
            return []
        text = self.lora.strip()
        if not (text.startswith("[") and text.endswith("]")) or Path(self.lora).exists():
            return [self.lora]
        return [name.strip() for name in next(csv.reader([text[1:-1]], skipinitialspace=True), [])]

    def chosen_loras(self) -> list[tuple[Path, float]]:
        """Return path and strength of each LoRA; one of the hub is downloaded. Raises ConfigError."""
        names = self.lora_names
        strengths = self.lora_strength if isinstance(self.lora_strength, list) else [self.lora_strength] * len(names)
        return [(weights_path(name, "lora"), float(strength)) for name, strength in zip(names, strengths, strict=True)]
