"""Encode text as Wan2.1: by UMT5 from a diffusers folder or the original one."""

import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ftfy
import torch
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from models.errors import ConfigError
from models.text.encoder_files import find_encoder, load_encoder

_SAMPLE_BYTES = 1 << 20
_FIX = "give a diffusers folder of Wan2.1, or the original one"


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
    """Encodes text by the encoder and tokenizer of a folder; loads its network with the first prompt."""

    def __init__(self, folder: Path, text_dim: int, length: int, device: torch.device, dtype: torch.dtype):
        """Read `length` tokens of each prompt. Raises ConfigError where the folder does not fit."""
        self.folder, self.length, self.device, self.dtype = folder, length, device, dtype
        self.files = find_encoder(folder, text_dim)

    @cached_property
    def identity(self) -> str:
        """Name the encoder by its files: equal files anywhere give one name.

        Hashes each file's size and first megabyte: reading all would take as long as loading.
        """
        digest = hashlib.sha256(f"{self.length} {self.dtype}".encode())
        for path in self.files.all:
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
            return AutoTokenizer.from_pretrained(self.files.tokenizer)
        except (OSError, ValueError) as error:
            problem = f"its tokenizer cannot be loaded ({' '.join(str(error).split())})"
            raise ConfigError("text_encoder", self.folder, problem, _FIX) from error

    @cached_property
    def _network(self) -> UMT5EncoderModel:
        return load_encoder(self.files, self.folder, self.dtype).to(self.device).eval().requires_grad_(False)
