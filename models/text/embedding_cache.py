"""Embeddings of prompts on disk: each prompt is encoded once on a machine, and the encoder need not be loaded."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.atomic_files import beside, require_writable
from models.text.umt5 import Embedding, clean_prompt

_SHOWN = 60


class TextEncoder(Protocol):
    """What the cache asks where it has nothing."""

    identity: str
    """Two encoders that may give different embeddings have different ones."""

    def encode(self, prompts: Sequence[str]) -> list[Embedding]:
        """Embeddings of cleaned prompts."""
        ...

    def tokens(self, prompt: str) -> int:
        """Of a whole cleaned prompt, those that are cut too."""
        ...

    def unload(self) -> None:
        """Give memory back."""
        ...


class CachedText:
    """Prompts to [B S text_dim], float32 on the CPU: rows behind a prompt's last token are zero.

    Between two calls the encoder holds no memory: who has many new prompts lets them be prepared together.
    Wan attends to all `length` rows: masking the zeroed ones would be another function (algorithm.md 8.12).
    """

    def __init__(self, encoder: TextEncoder, folder: Path, length: int, warned_prompts: Sequence[str] = ()):
        """Where one of the prompts `warned_prompts` is cut, the caller reports it."""
        self.encoder, self.folder, self.length = encoder, folder, length
        self.warned = {clean_prompt(prompt) for prompt in warned_prompts}

    @property
    def identity(self) -> str:
        """That of the encoder."""
        return self.encoder.identity

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """The embeddings of `prompts`; a prompt that is too long is cut, and that is said on standard error."""
        cleaned = [clean_prompt(prompt) for prompt in prompts]
        found = {prompt: self._read(prompt) for prompt in cleaned}
        found |= dict(self._made([prompt for prompt, embedding in found.items() if embedding is None]))
        for prompt, embedding in found.items():
            self._say_cut(prompt, embedding)
        return torch.stack([self._padded(found[prompt].rows) for prompt in cleaned])

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode those of `prompts` that the folder lacks; a killed process keeps those that it had done."""
        cleaned = dict.fromkeys(clean_prompt(prompt) for prompt in prompts)
        for prompt, embedding in self._made([prompt for prompt in cleaned if self._entry(prompt) is None]):
            self._say_cut(prompt, embedding)

    def truncated_tokens(self, prompt: str) -> int:
        """Tokens of `prompt` behind the last one that is read."""
        cleaned = clean_prompt(prompt)
        embedding = self._read(cleaned)
        tokens = self.encoder.tokens(cleaned) if embedding is None else embedding.tokens
        return max(0, tokens - self.length)

    def _made(self, missing: Sequence[str]) -> Iterator[tuple[str, Embedding]]:
        """Cleaned prompts and their embeddings, each on disk before the next is made."""
        if not missing:
            return
        with self._named("written"):  # known before the encoder is loaded, which takes minutes
            self.folder.mkdir(parents=True, exist_ok=True)
            require_writable(self.folder)
        for prompt in missing:
            (embedding,) = self.encoder.encode([prompt])
            self._write(prompt, embedding)
            yield prompt, embedding
        self.encoder.unload()

    def path(self, prompt: str) -> Path:
        """Where the embedding of a cleaned prompt is kept."""
        name = hashlib.sha256(f"{self.encoder.identity}\n{prompt}".encode()).hexdigest()
        return self.folder / f"{name}.safetensors"

    def _padded(self, rows: Tensor) -> Tensor:
        padded = torch.zeros(self.length, rows.shape[1])
        padded[: len(rows)] = rows
        return padded

    def _read(self, prompt: str) -> Embedding | None:
        file = self._entry(prompt)
        return None if file is None else Embedding(file.get_tensor("rows"), int(file.metadata()["tokens"]))

    def _entry(self, prompt: str) -> safe_open | None:
        """The file of a cleaned prompt; None where there is none, or a damaged one, which is made again."""
        path = self.path(prompt)
        with self._named("read"):
            if not path.is_file():
                return None
            try:
                file = safe_open(path, framework="pt")
            except SafetensorError:
                return None
        written = set(file.keys()) == {"rows"} and (file.metadata() or {}).get("tokens", "").isdecimal()
        return file if written else None

    def _write(self, prompt: str, embedding: Embedding) -> None:
        """Under a name of its own until it is whole: many processes may write the same one."""
        content = save({"rows": embedding.rows.contiguous()}, metadata={"tokens": str(embedding.tokens)})
        with self._named("written"), beside(self.path(prompt), f".{uuid4().hex}") as partial:
            partial.write_bytes(content)

    @contextmanager
    def _named(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(
                f"text_cache={self.folder} cannot be {done} ({reason}); make room, or change text_cache"
            ) from error

    def _say_cut(self, prompt: str, embedding: Embedding) -> None:
        if embedding.tokens <= self.length or prompt in self.warned:
            return
        self.warned.add(prompt)
        print(
            f'note: the prompt "{prompt[:_SHOWN]}..." has {embedding.tokens} tokens; the first {self.length} are read',
            file=sys.stderr,
        )
