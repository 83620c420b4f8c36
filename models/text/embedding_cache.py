"""Cache embeddings of prompts on disk, so that a machine encodes each prompt once, or loads no encoder."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.atomic_files import atomic_file, require_writable
from models.errors import ConfigError
from models.text.umt5 import Embedding, Umt5, clean_prompt

_SHOWN = 60
"""Characters of a prompt in a warning."""


class CachedText:
    """Maps prompts to [B S text_dim], float32 on the CPU: rows behind a prompt's last token are zero.

    Between two calls the encoder holds no memory: prepare many new prompts together. Wan attends to all `length` rows:
    masking the zeroed ones would be another function (algorithm.md 8.12).
    """

    def __init__(self, encoder: Umt5, folder: Path, length: int, warned_prompts: Sequence[str] = ()):
        """Read `length` tokens; truncating a prompt prints a warning, except for `warned_prompts`."""
        self.encoder, self.folder, self.length = encoder, folder, length
        self.identity = encoder.identity
        self.warned = {clean_prompt(prompt) for prompt in warned_prompts}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings [B S text_dim]; truncating a prompt prints a warning on standard error."""
        cleaned = [clean_prompt(prompt) for prompt in prompts]
        embeddings: dict[str, Embedding | None] = {}
        for prompt in cleaned:
            file = self._entry(prompt)
            held = None if file is None else Embedding(file.get_tensor("rows"), int(file.metadata()["tokens"]))
            embeddings[prompt] = held
        embeddings |= dict(self._encode([prompt for prompt, embedding in embeddings.items() if embedding is None]))
        for prompt, embedding in embeddings.items():
            self._warn_if_truncated(prompt, embedding)
        rows = [embeddings[prompt].rows for prompt in cleaned]
        padded = torch.zeros(len(rows), self.length, rows[0].shape[1])
        for target, values in zip(padded, rows, strict=True):
            target[: len(values)] = values
        return padded

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode the `prompts` that the folder lacks; a killed process keeps those done before."""
        cleaned = dict.fromkeys(clean_prompt(prompt) for prompt in prompts)
        for prompt, embedding in self._encode([prompt for prompt in cleaned if self._entry(prompt) is None]):
            self._warn_if_truncated(prompt, embedding)

    def truncated_tokens(self, prompt: str) -> int:
        """Count the tokens of `prompt` beyond `length`."""
        cleaned = clean_prompt(prompt)
        file = self._entry(cleaned)
        tokens = self.encoder.tokens(cleaned) if file is None else int(file.metadata()["tokens"])
        return max(0, tokens - self.length)

    def path(self, prompt: str) -> Path:
        """Return the file of a cleaned prompt's embedding."""
        name = hashlib.sha256(f"{self.identity}\n{prompt}".encode()).hexdigest()
        return self.folder / f"{name}.safetensors"

    def _encode(self, missing: Sequence[str]) -> Iterator[tuple[str, Embedding]]:
        """Yield cleaned prompts and their embeddings, each on disk before the next is encoded."""
        if not missing:
            return
        with self._os_errors("written"):  # known before the encoder is loaded, which takes minutes
            self.folder.mkdir(parents=True, exist_ok=True)
            require_writable(self.folder)
        for prompt in missing:
            (embedding,) = self.encoder.encode([prompt])
            content = save({"rows": embedding.rows.contiguous()}, metadata={"tokens": str(embedding.tokens)})
            # Under a name of its own until it is complete: several processes may write the same one.
            with self._os_errors("written"), atomic_file(self.path(prompt), f".{uuid4().hex}") as partial:
                partial.write_bytes(content)
            yield prompt, embedding
        self.encoder.unload()

    def _entry(self, prompt: str) -> safe_open | None:
        """Open the file of a cleaned prompt; None for a missing or damaged one, which is written again."""
        path = self.path(prompt)
        with self._os_errors("read"):
            if not path.is_file():
                return None
            try:
                file = safe_open(path, framework="pt")
            except SafetensorError:
                return None
        complete = set(file.keys()) == {"rows"} and (file.metadata() or {}).get("tokens", "").isdecimal()
        return file if complete else None

    @contextmanager
    def _os_errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problem = f"cannot be {done} ({error.strerror or error})"
            raise ConfigError("text_cache", self.folder, problem, "make room, or change text_cache") from error

    def _warn_if_truncated(self, prompt: str, embedding: Embedding) -> None:
        if embedding.tokens > self.length and prompt not in self.warned:
            self.warned.add(prompt)
            print(
                f'note: the prompt "{prompt[:_SHOWN]}..." has {embedding.tokens} tokens; the first {self.length} are '
                "read", file=sys.stderr,
            )  # fmt: skip
