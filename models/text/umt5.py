"""Wan2.1's text encoder: UMT5 out of a diffusers folder."""

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

_SAMPLE_BYTES = 1 << 20
_SENTENCEPIECE = "spiece.model"
_TOKENIZERS = ("tokenizer.json", _SENTENCEPIECE)


@dataclass(frozen=True)
class Embedding:
    """A prompt as the encoder sees it."""

    rows: Tensor
    """[tokens text_dim], without padding."""
    tokens: int
    """Of the whole prompt: more than there are rows where it was cut."""


def clean_prompt(prompt: str) -> str:
    """`prompt` as Wan cleans it: mended Unicode, HTML entities resolved (twice), single spaces."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


class Umt5:
    """The encoder of a folder with text_encoder/ and tokenizer/. Its network is loaded with the first prompt."""

    def __init__(self, folder: Path, text_dim: int, length: int, device: torch.device, dtype: torch.dtype):
        """`length` is the number of tokens that are read. Raises ValueError where the folder does not fit."""
        self.folder, self.length, self.device, self.dtype = folder, length, device, dtype
        try:
            config = dict(json.loads((folder / "text_encoder/config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"text_encoder={folder} holds no readable text_encoder/config.json; give a diffusers folder of Wan2.1"
            ) from error
        if config.get("model_type") != "umt5" or config.get("d_model") != text_dim:
            raise ValueError(
                f"text_encoder={folder} is {config.get('model_type')} of width {config.get('d_model')}; the network "
                f"needs umt5 of width {text_dim}"
            )
        if not any((folder / "tokenizer" / name).is_file() for name in _TOKENIZERS):
            raise ValueError(f"text_encoder={folder} has no tokenizer/ with {' or '.join(_TOKENIZERS)}")
        self.config = config

    @cached_property
    def identity(self) -> str:
        """A name of the encoder that others have only if their files are the same, wherever they lie.

        Of each weight file, its size and its first megabyte: reading all would take as long as loading.
        """
        digest = hashlib.sha256(f"{self.length} {self.dtype}".encode())
        for path in sorted((self.folder / "text_encoder").iterdir()) + sorted((self.folder / "tokenizer").iterdir()):
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Embedding]:
        """Embeddings of cleaned prompts, each by itself: what is masked as padding changes nothing, but takes time."""
        made = []
        for prompt in prompts:
            read = self._tokenizer(prompt, truncation=True, max_length=self.length, return_tensors="pt").input_ids
            rows = self._network(read.to(self.device)).last_hidden_state[0]
            made.append(Embedding(rows.cpu(), self.tokens(prompt)))
        return made

    def tokens(self, prompt: str) -> int:
        """Of a whole cleaned prompt, those that are cut too. Needs no network."""
        return len(self._tokenizer(prompt, verbose=False).input_ids)

    def unload(self) -> None:
        """Give the network's memory back (11 GB in bfloat16); the next prompt loads it again."""
        self.__dict__.pop("_network", None)

    @cached_property
    def _tokenizer(self):
        try:
            return AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        except (OSError, ValueError) as error:
            raise ValueError(f"text_encoder={self.folder}: tokenizer/ cannot be loaded: {_line(error)}") from error

    @cached_property
    def _network(self) -> UMT5EncoderModel:
        disable_progress_bar()  # it would stand among the lines of whoever asked
        try:
            network, found = UMT5EncoderModel.from_pretrained(
                self.folder / "text_encoder", dtype=self.dtype, use_safetensors=True, output_loading_info=True
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"text_encoder={self.folder} cannot be loaded: {_line(error)}") from error
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if found[problem]:
                names = ", ".join(sorted(map(str, found[problem]))[:4])
                raise ValueError(f"text_encoder={self.folder} has {problem.replace('_', ' ')}: {names}")
        return network.to(self.device).eval().requires_grad_(False)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
