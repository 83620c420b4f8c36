"""Read prompt files of every form: txt, jsonl, json, csv, tsv and parquet, a prompt or a schedule per entry."""

import csv
import io
import json
import math
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from models.errors import ConfigError
from models.file_kinds import read_text, require_kind

ENDINGS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
COLUMNS = ("prompt", "prompt_en", "text", "caption")
"""Names under which an entry may keep its prompt; the first that is not empty counts."""
_SCHEDULES = ("prompt_schedule", "prompts")
_READ = (*COLUMNS, *_SCHEDULES, "seconds", "image", "video")
_SETTINGS = ("duration", "seed", "fps", "height", "width", "negative_prompt", "num_frames")
"""Columns that look like settings of a video, which no command reads from a file of prompts."""
_MOST_REFUSED = 0.1
"""Largest share of unusable entries in a file that is read all the same."""
_SHOWN_COLUMNS = 8


class _Refused(Exception):
    """Reports an entry that cannot be used: the reason to count it by, and a sentence about it."""


@dataclass(frozen=True)
class PromptEntry:
    """Holds one entry of a prompt file."""

    scenes: tuple[tuple[float | None, str], ...]
    """(second at which it begins, prompt), one for most entries; None in all of them where the file has no times."""
    start: str | None = None
    """Picture or clip that the video begins with, as the file names it."""


@dataclass(frozen=True)
class PromptEntries:
    """Holds the usable entries of a prompt file, and counts of the others."""

    entries: tuple[PromptEntry, ...]
    refused: dict[str, int]
    """Unusable entries by reason."""
    unread: tuple[str, ...]
    """Columns that look like settings but are not read."""


def read_prompt_file(path: Path, most_refused: float = _MOST_REFUSED) -> PromptEntries:
    """Read the entries of a prompt file, with white space as one space, in Unicode's composed form.

    Raises ConfigError for another kind of file, and where more than the share `most_refused` of its entries is
    unusable.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError("prompts", path, f"this file is none of {', '.join(ENDINGS)}", "name such a file")
    if not path.is_file():
        raise ConfigError("prompts", path, "this file does not exist", "name a file of prompts")
    entries, refused, first_fault, unread = [], Counter(), "", {}
    try:
        for number, record in enumerate(_records(path), start=1):
            try:
                entries.append(_entry(record))
                if isinstance(record, Mapping):
                    unread |= dict.fromkeys(name for name in _named(record) if name in _SETTINGS)
            except _Refused as fault:
                reason, sentence = fault.args
                refused[reason] += 1
                first_fault = first_fault or f"entry {number} {sentence}"
    except OSError as error:
        problem = f"this file cannot be read ({error.strerror or error})"
        raise ConfigError("prompts", path, problem, "repair it, or name another") from error
    if refused.total() > most_refused * (len(entries) + refused.total()):
        total = len(entries) + refused.total()
        problem = f"{refused.total():,} of {total:,} entries cannot be used; {first_fault}"
        raise ConfigError("prompts", path, problem, f"repair them; a prompt is in one of {', '.join(COLUMNS)}")
    return PromptEntries(tuple(entries), dict(refused), tuple(unread))


def schedule_problem(scenes: Any) -> str | None:
    """Describe the fault of a schedule [[second, prompt], ...]; None for a good one."""
    if not isinstance(scenes, list) or not all(
        isinstance(scene, list) and len(scene) == 2 and isinstance(scene[0], int | float)
        and not isinstance(scene[0], bool) and math.isfinite(scene[0]) and isinstance(scene[1], str)
        for scene in scenes
    ):  # fmt: skip
        return "not pairs of seconds and a prompt"
    if not scenes or scenes[0][0] != 0 or any(later[0] <= earlier[0] for earlier, later in pairwise(scenes)):
        return "its seconds do not rise from 0"
    return None


def _records(path: Path) -> Iterator[Any]:
    """Yield the raw entries of a file: text, mapping, or the _Refused of a line that cannot be parsed."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        yield from _parquet_records(path)
        return
    text = read_text(path, "prompts")
    lines = [line for line in io.StringIO(text, newline=None) if line.strip()]
    first = lines[0].strip() if lines else ""
    if ending in (".json", ".jsonl") or (ending == ".txt" and _is_json(text, first)):
        yield from _json_records(text, lines)
    elif ending in (".csv", ".tsv") or _is_table(path, text, first):
        yield from _table_records(path, text, first)
    elif len(lines) > 1 and len({line.strip().count("\t") for line in lines}) == 1 and "\t" in first:
        cure = f"begin it with the names of its columns, one of them {COLUMNS[0]}, and end its name in .tsv"
        raise ConfigError("prompts", path, "every line has several columns", cure)
    else:
        yield from lines


def _is_json(text: str, first: str) -> bool:
    """Return whether a text file holds JSON: an object in its first line, or one list."""
    if first[:1] not in ("{", "["):
        return False
    try:
        return isinstance(json.loads(first if first.startswith("{") else text), dict | list)
    except (ValueError, RecursionError):
        return False


def _json_records(text: str, lines: list[str]) -> Iterator[Any]:
    """Yield the entries of one JSON list, or of JSON lines, whatever the file's ending."""
    try:
        whole = json.loads(text)
        yield from whole if isinstance(whole, list) else [whole]
        return
    except (ValueError, RecursionError):
        pass  # more than one value: JSON lines
    for line in lines:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield _Refused("no JSON", "is no JSON")


def _delimiter(header: str) -> str | None:
    """Find the character that separates a header's cells, one of which names a prompt."""
    for delimiter in ",\t;":
        cells = [cell.strip(' "').casefold() for cell in header.split(delimiter)]
        if len(cells) > 1 and any(cell in COLUMNS for cell in cells):
            return delimiter
    return None


def _is_table(path: Path, text: str, first: str) -> bool:
    """Return whether a text file is a table, and print a note on either reading of one that begins as a table.

    A prompt may have commas and the word text: a header's cells are all single words, and its rows have as many cells.
    """
    delimiter = _delimiter(first)
    if delimiter is None or not all(cell.strip(' "').isidentifier() for cell in first.split(delimiter)):
        return False
    try:
        rows = [*csv.reader(io.StringIO(text.strip("\r\n"), newline=""), delimiter=delimiter, strict=True)]
        table = all(len(row) == len(rows[0]) for row in rows if "".join(row).strip())
    except csv.Error:
        table = False
    reading = (
        "read as a table" if table else "read as lines: they have not all the cells of the first, a table's header"
    )
    print(f"note: prompts={path}: {reading}", file=sys.stderr)
    return table


def _table_records(path: Path, text: str, first: str) -> Iterator[Any]:
    """Yield the rows of a table with a header. Raises ConfigError for broken quotes, which swallow rows."""
    delimiter = _delimiter(first) or ("\t" if path.suffix.lower() == ".tsv" else ",")
    table = csv.DictReader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True)
    try:
        if not {*_READ} & {*_named(dict.fromkeys(table.fieldnames or ()))}:
            seen = ", ".join((table.fieldnames or ())[:_SHOWN_COLUMNS])
            problem = f"no column is one of {', '.join(COLUMNS)}; its first line has {seen or 'nothing'}"
            raise ConfigError("prompts", path, problem, "name the column of prompts so")
        for row in table:
            if None in row:
                yield _Refused("more cells than columns", f"(line {table.line_num}) has more cells than columns")
            else:
                yield row
    except csv.Error as error:
        problem = f"line {table.line_num} breaks the quotes of the table ({error})"
        raise ConfigError(
            "prompts", path, problem, "put quotes around a whole cell, and double those inside"
        ) from error


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet table, read columns only. Raises ConfigError."""
    require_kind(path, "prompts", ("parquet",))
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        cure = "install it, or convert the file to jsonl"
        raise ConfigError("prompts", path, "parquet needs pyarrow", cure) from error
    try:
        with ParquetFile(path) as table:
            names = table.schema_arrow.names
            known = [name for name in names if name.strip().casefold() in (*_READ, *_SETTINGS)]
            if not any(name.strip().casefold() in _READ for name in known):
                problem = f"no column is one of {', '.join(COLUMNS)}; it has {', '.join(names[:_SHOWN_COLUMNS])}"
                raise ConfigError("prompts", path, problem, "name the column of prompts so")
            for batch in table.iter_batches(columns=known):
                yield from batch.to_pylist()
    except (ArrowException, UnicodeDecodeError) as error:
        problem = f"this is no whole parquet file ({type(error).__name__})"
        raise ConfigError("prompts", path, problem, "restore it, or name another") from error


def _named(record: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the columns of an entry by their names in lower case."""
    return {str(name).strip().casefold(): value for name, value in record.items()}


def _entry(record: Any) -> PromptEntry:
    """Make an entry of a raw one. Raises _Refused."""
    if isinstance(record, _Refused):
        raise record
    if isinstance(record, str):
        record = {COLUMNS[0]: record}
    if not isinstance(record, Mapping):
        raise _Refused("no object", f"is {type(record).__name__}, neither a text nor an object")
    columns = _named(record)
    start = next((value for name in ("image", "video") if isinstance(value := columns.get(name), str) and value), None)
    for name in _SCHEDULES:
        if columns.get(name) not in (None, ""):
            return PromptEntry(_scenes(name, columns[name], columns.get("seconds")), start)
    known = [name for name in COLUMNS if name in columns]
    if not known:
        seen = ", ".join([*columns][:_SHOWN_COLUMNS])
        raise _Refused("no prompt", f"has none of {', '.join(COLUMNS)}; it has {seen or 'nothing'}")
    for name in known:
        if columns[name] is not None and not isinstance(columns[name], str):
            raise _Refused("no text", f"has {type(columns[name]).__name__} as {name}, no text")
        if text := _clean(columns[name] or ""):
            return PromptEntry(((0.0, text),), start)
    raise _Refused("empty", f"has an empty {known[0]}")


def _scenes(name: str, value: Any, seconds: Any) -> tuple[tuple[float | None, str], ...]:
    """Read a schedule: pairs, or texts with the list `seconds` of their beginnings, or texts alone. Raises _Refused."""
    if isinstance(value, str):  # a cell of a table
        if name == "prompts" and not value.lstrip().startswith("["):
            return ((0.0, _clean(value)),)
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _Refused("no schedule", f"has a {name} that is no JSON") from error
    texts_alone = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    if texts_alone and not isinstance(seconds, list):
        scenes = [(None, _clean(text)) for text in value]
    else:
        if texts_alone and len(seconds) == len(value):
            value = [list(pair) for pair in zip(seconds, value, strict=True)]
        if problem := schedule_problem(value):
            raise _Refused("no schedule", f"has a {name} of another form: {problem}")
        scenes = [(float(begins_s), _clean(text)) for begins_s, text in value]
    if not all(text for _, text in scenes):
        raise _Refused("empty", f"has an empty prompt in its {name}")
    return tuple(scenes)


def _clean(text: str) -> str:
    """Write white space as one space, and accents as one character with their letters."""
    return unicodedata.normalize("NFC", " ".join(text.split()))
