"""Read training prompts from a file, filter them, and order them by the seed."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from actors.prompt_config import PromptConfig
from models.errors import ConfigError
from models.noise import Draw

_NAMES = ("prompt", "text", "caption")
"""Names under which jsonl or parquet may keep a prompt; the first one present counts."""


class TrainingPrompts(Sequence[str]):
    """Holds prompts in their file's order (by index), and shuffled without end (`prompt`), as rollouts use them."""

    def __init__(self, texts: Sequence[str], seed: int):
        """Shuffle `texts` by the seed. Raises ConfigError for an empty list."""
        if not texts:
            raise ConfigError("prompts", None, "there are no prompts to train on", "name a file that has some")
        self.texts, self.seed = tuple(texts), seed
        self._shuffled: tuple[int, numpy.ndarray] | None = None
        """The last epoch and its order: a shuffle of 250,000 takes milliseconds."""

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: int | slice) -> Any:
        return self.texts[place]

    def prompt(self, i: int) -> str:
        """Return prompt number `i` of an endless sequence that has every prompt once in each epoch.

        A function of (seed, i): a resumed run needs to keep nothing but `i`.
        """
        epoch, place = divmod(i, len(self.texts))
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator = numpy.random.default_rng([self.seed, Draw.PROMPTS, epoch])
            self._shuffled = epoch, generator.permutation(len(self.texts))
        return self.texts[self._shuffled[1][place]]


@dataclass(frozen=True)
class PromptFile:
    """Holds the usable prompts of a file, and the number of dropped ones."""

    texts: tuple[str, ...]
    dropped: dict[str, int]
    """Dropped prompts by reason."""

    def __str__(self) -> str:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return f"{len(self.texts):,} prompts" + (f"; dropped: {left_out}" if left_out else "")


def read_prompts(path: Path, config: PromptConfig) -> PromptFile:
    """Read the prompts of a file that can be trained on, each once. Raises ConfigError where none is left."""
    kept: dict[str, str] = {}
    dropped = Counter({"too short": 0, "too long": 0, "twice": 0})
    for text in prompt_texts(path):
        if len(text) < config.min_characters:
            dropped["too short"] += 1
        elif len(text) > config.max_characters:
            dropped["too long"] += 1
        elif text.casefold() in kept:
            dropped["twice"] += 1
        else:
            kept[text.casefold()] = text
    result = PromptFile(tuple(kept.values()), dict(dropped))
    if not kept:
        raise ConfigError(
            "prompts", path, f"no prompt of this file can be used ({result})", "change prompts or prompt.*"
        )
    return result


def prompt_texts(path: Path) -> Iterator[str]:
    """Read txt (one prompt per line), jsonl or parquet (under prompt, text or caption), with white space as one space.

    Raises ConfigError, which names file and entry, for content of another form.
    """
    suffixes = (".txt", ".jsonl", ".parquet")
    if path.suffix not in suffixes:
        raise ConfigError("prompts", path, f"this file is none of {', '.join(suffixes)}", "name such a file")
    if not path.is_file():
        raise ConfigError("prompts", path, "this file does not exist", "name a file of prompts")
    try:
        for where, text in _parquet_entries(path) if path.suffix == ".parquet" else _line_entries(path):
            if not isinstance(text, str):
                raise ConfigError("prompts", path, f"{where} is {type(text).__name__}, no text", "repair it")
            yield " ".join(text.split())
    except OSError as error:
        problem = f"this file cannot be read ({error.strerror or error})"
        raise ConfigError("prompts", path, problem, "repair it, or name another") from error


def _line_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield place and prompt of each line of txt or jsonl that is not empty."""
    try:
        with path.open(encoding="utf-8-sig") as lines:  # Windows begins its files with a byte order mark
            for number, line in enumerate((line for line in lines if line.strip()), start=1):
                where = f"entry {number}"
                if path.suffix == ".txt":
                    yield where, line
                    continue
                try:
                    content = json.loads(line)
                except ValueError as error:
                    raise ConfigError("prompts", path, f"{where} is no JSON", "repair it") from error
                if not isinstance(content, dict):
                    raise ConfigError("prompts", path, f"{where} is no object", 'write {"prompt": "..."}')
                name = next((name for name in _NAMES if name in content), None)
                if name is None:
                    raise ConfigError(
                        "prompts", path, f"{where} has none of {', '.join(_NAMES)}", "name the prompts so"
                    )
                yield where, content[name]
    except UnicodeDecodeError as error:
        raise ConfigError("prompts", path, f"this is not UTF-8 text (byte {error.start})", "convert it") from error


def _parquet_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield column and prompt of each row."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(
            "prompts", path, "parquet needs pyarrow", "install it, or convert the file to jsonl"
        ) from error
    try:
        with ParquetFile(path) as table:
            name = next((name for name in _NAMES if name in table.schema_arrow.names), None)
            if name is None:
                raise ConfigError("prompts", path, f"it has none of {', '.join(_NAMES)}", "name the column so")
            for batch in table.iter_batches(columns=[name]):
                yield from ((name, value) for value in batch.column(0).to_pylist())
    except ArrowException as error:
        problem = f"this is no whole parquet file ({type(error).__name__})"
        raise ConfigError("prompts", path, problem, "restore it, or name another") from error
