"""Training prompts: read from a file, filtered, and dealt out in an order that is a function of the seed."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy

from actors.prompt_config import PromptConfig
from models.noise import Draw

_NAMES = ("prompt", "text", "caption")
"""Where a line of jsonl, or a table of parquet, keeps its prompt: the first of these that it has."""


class TrainingPrompts(Sequence[str]):
    """Prompts in their file's order (indexing), or shuffled without end (`prompt`), as rollouts come by them."""

    def __init__(self, texts: Sequence[str], seed: int):
        """Raises ValueError where there is none."""
        if not texts:
            raise ValueError("there are no prompts to train on; change prompts, or prompt.min_characters")
        self.texts, self.seed = tuple(texts), seed
        self._shuffled: tuple[int, numpy.ndarray] | None = None
        """The epoch that was asked for last, and its order: a shuffle of 250,000 takes milliseconds."""

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place):
        return self.texts[place]

    def prompt(self, i: int) -> str:
        """Prompt number `i` of an endless sequence that has every prompt once in each epoch.

        A function of (seed, i): a resumed run needs to keep nothing but `i`.
        """
        epoch, place = divmod(i, len(self.texts))
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator = numpy.random.default_rng([self.seed, Draw.PROMPTS, epoch])
            self._shuffled = epoch, generator.permutation(len(self.texts))
        return self.texts[self._shuffled[1][place]]


@dataclass(frozen=True)
class PromptFile:
    """What a file of prompts held."""

    texts: tuple[str, ...]
    dropped: dict[str, int]
    """By reason."""

    def __str__(self) -> str:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return f"{len(self.texts):,} prompts" + (f"; dropped: {left_out}" if left_out else "")


def read_prompts(path: Path, config: PromptConfig) -> PromptFile:
    """The prompts of a file that can be trained on, each once. Raises ValueError where none is left, and as below."""
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
    found = PromptFile(tuple(kept.values()), dict(dropped))
    if not kept:
        raise ValueError(f"prompts={path} holds no prompt that can be used ({found}); change prompts, or prompt.*")
    return found


def prompt_texts(path: Path) -> Iterator[str]:
    """Read txt (a prompt a line), jsonl or parquet (under prompt, text or caption); spaces and line breaks become one.

    Raises ValueError, which names file and line, for what cannot be read.
    """
    readers = {".txt": _lines, ".jsonl": _json_lines, ".parquet": _parquet}
    if path.suffix not in readers:
        raise ValueError(f"prompts={path} is none of {', '.join(readers)}; give such a file")
    if not path.is_file():
        raise ValueError(f"prompts={path} does not exist; give a file of prompts")
    try:
        yield from (" ".join(text.split()) for text in readers[path.suffix](path))
    except OSError as error:
        raise ValueError(f"prompts={path} cannot be read ({error.strerror or error}); change prompts") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as lines:  # Windows begins its files with a mark
            yield from (line for line in lines if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts={path} is not UTF-8 text (byte {error.start}); convert it") from error


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ValueError(f"prompts={path}: entry {number} is no JSON; repair it") from error
        if not isinstance(content, dict):
            raise ValueError(f'prompts={path}: entry {number} is no object; write {{"prompt": "..."}}')
        yield _text(content.get(_name(content, f"prompts={path}: entry {number}")), f"prompts={path}: entry {number}")


def _parquet(path: Path) -> Iterator[str]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"prompts={path} needs pyarrow; install it, or convert the file to jsonl") from error
    try:
        with ParquetFile(path) as table:
            name = _name(table.schema_arrow.names, f"prompts={path}")
            for batch in table.iter_batches(columns=[name]):
                yield from (_text(value, f"prompts={path}: {name}") for value in batch.column(0).to_pylist())
    except ArrowException as error:
        raise ValueError(f"prompts={path} is no whole parquet file ({type(error).__name__}); restore it") from error


def _name(names: Iterable[str], where: str) -> str:
    name = next((name for name in _NAMES if name in names), None)
    if name is None:
        raise ValueError(f"{where} has none of {', '.join(_NAMES)}; name the prompts so")
    return name


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is {type(value).__name__}, no text; repair it")
    return value
