"""Encode text as Wan2.1: by UMT5 from a diffusers folder."""

import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ftfy
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils.logging import disable_progress_bar

from models.errors import ConfigError

_SAMPLE_BYTES = 1 << 20
_SENTENCEPIECE = "spiece.model"
_TOKENIZERS = ("tokenizer.json", _SENTENCEPIECE)
_FIX = "give a diffusers folder of Wan2.1"


@dataclass(frozen=True)
class Embedding:
    """Holds a prompt's embedding."""

    rows: Tensor
    """[tokens text_dim], without padding."""
    tokens: int
    """Tokens of the whole prompt: more than rows where it was truncated."""


def clean_prompt(prompt: str) -> str:
    """Clean a prompt as Wan does: mended Unicode, HTML entities resolved (twice), single spaces."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


class Umt5:
    """Encodes text by a folder with text_encoder/ and tokenizer/; loads its network with the first prompt."""

    def __init__(self, folder: Path, text_dim: int, length: int, device: torch.device, dtype: torch.dtype):
        """Read `length` tokens of each prompt. Raises ConfigError where the folder does not fit."""
        self.folder, self.length, self.device, self.dtype = folder, length, device, dtype
        try:
            config = dict(json.loads((folder / "text_encoder/config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            problem = "holds no readable text_encoder/config.json"
            raise ConfigError("text_encoder", folder, problem, _FIX) from error
        if config.get("model_type") != "umt5" or config.get("d_model") != text_dim:
            kind, width = config.get("model_type"), config.get("d_model")
            problem = f"is {kind} of width {width}, and the network needs umt5 of width {text_dim}"
            raise ConfigError("text_encoder", folder, problem, _FIX)
        if not any((folder / "tokenizer" / name).is_file() for name in _TOKENIZERS):
            problem = f"has no tokenizer/ with {' or '.join(_TOKENIZERS)}"
            raise ConfigError("text_encoder", folder, problem, _FIX)
        self.config = config

    @cached_property
    def identity(self) -> str:
        """Name the encoder by its files: equal files anywhere give one name.

        Hashes each file's size and first megabyte: reading all would take as long as loading.
        """
        digest = hashlib.sha256(f"{self.length} {self.dtype}".encode())
        for path in sorted((self.folder / "text_encoder").iterdir()) + sorted((self.folder / "tokenizer").iterdir()):
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Embedding]:
        """Encode cleaned prompts, each by itself: masked padding changes nothing, but takes time."""
        embeddings = []
        for prompt in prompts:
            read = self._tokenizer(prompt, truncation=True, max_length=self.length, return_tensors="pt").input_ids
            rows = self._network(read.to(self.device)).last_hidden_state[0]
            embeddings.append(Embedding(rows.cpu(), self.tokens(prompt)))
        return embeddings

    def tokens(self, prompt: str) -> int:
        """Count the tokens of a whole cleaned prompt. Needs no network."""
        return len(self._tokenizer(prompt, verbose=False).input_ids)

    def unload(self) -> None:
        """Free the network's memory (11 GB in bfloat16); the next prompt loads it again."""
        self.__dict__.pop("_network", None)

    @cached_property
    def _tokenizer(self):
        try:
            return AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        except (OSError, ValueError) as error:
            problem = f"its tokenizer/ cannot be loaded ({' '.join(str(error).split())})"
            raise ConfigError("text_encoder", self.folder, problem, _FIX) from error

    @cached_property
    def _network(self) -> UMT5EncoderModel:
        disable_progress_bar()  # it would mix with the command's own lines
        try:
            network, report = UMT5EncoderModel.from_pretrained(
                self.folder / "text_encoder", dtype=self.dtype, use_safetensors=True, output_loading_info=True
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            problem = f"cannot be loaded ({' '.join(str(error).split())})"
            raise ConfigError("text_encoder", self.folder, problem, _FIX) from error
        for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if report[fault]:
                names = ", ".join(sorted(map(str, report[fault]))[:4])
                problem = f"has {fault.replace('_', ' ')}: {names}"
                raise ConfigError("text_encoder", self.folder, problem, "download it again")
        return network.to(self.device).eval().requires_grad_(False)
