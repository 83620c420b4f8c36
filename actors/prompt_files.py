"""Read prompt files of every form: txt, jsonl, json, csv, tsv and parquet, a prompt or a schedule per entry."""

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.prompt_entries import (
    COLUMNS,
    PROMPT_COLUMNS,
    SHOWN_COLUMNS,
    START_COLUMNS,
    PromptEntry,
    RefusedEntry,
    misplaced_cell,
    prompt_entry,
    repeated_column,
    unread_columns,
)
from models.errors import ConfigError
from models.file_kinds import line_fault, read_text, require_kind

ENDINGS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
_MOST_REFUSED = 0.1
"""Largest share of unusable entries in a file that is read all the same."""
_BEGINS_JSON = re.compile(r"""[{\[]\s*(["'{}\]]|$)""")
"""First line of JSON; a prompt may begin with a word in brackets."""
_LIST_MARK = re.compile(r"\s*([-*+\u2022]|\d{1,6}[.)])\s+(?=\S)")
_RULE = re.compile(r"\s*\|?\s*:?-{3,}:?\s*(\|\s*:?-{3,}:?\s*)+\|?\s*")
"""Line below the header of a Markdown table."""


@dataclass(frozen=True)
class PromptEntries:
    """Holds the usable entries of a prompt file, and counts of the others."""

    entries: tuple[PromptEntry, ...]
    refused: dict[str, int]
    """Unusable entries by reason."""
    unread: tuple[str, ...]
    """Columns that are not read, but for numbers of entries."""


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
                entries.append(prompt_entry(record))
                unread |= dict.fromkeys(unread_columns(record))
            except RefusedEntry as fault:
                reason, sentence = fault.args
                refused[reason] += 1
                first_fault = first_fault or f"entry {number} {sentence}"
    except OSError as error:
        problem = f"this file cannot be read ({error.strerror or error})"
        raise ConfigError("prompts", path, problem, "repair it, or name another") from error
    if refused.total() > most_refused * (len(entries) + refused.total()):
        total = len(entries) + refused.total()
        problem = f"{refused.total():,} of {total:,} entries cannot be used; {first_fault}"
        raise ConfigError("prompts", path, problem, f"repair them; a prompt is a line, or in {', '.join(COLUMNS)}")
    return PromptEntries(tuple(entries), dict(refused), tuple(unread))


def _records(path: Path) -> Iterator[Any]:
    """Yield the raw entries of a file: text, mapping, or the RefusedEntry of a line that cannot be used."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        yield from _parquet_records(path)
        return
    text = read_text(path, "prompts")
    lines = [line for line in io.StringIO(text, newline=None) if line.strip()]
    first = lines[0].strip() if lines else ""
    if ending in (".json", ".jsonl") or (ending == ".txt" and _holds_json(text, first)):
        yield from _json_records(path, text, lines)
    elif ending in (".csv", ".tsv") or _is_table(path, text, first):
        yield from _table_records(path, text, first)
    else:
        yield from _line_records(path, lines)


def _holds_json(text: str, first: str) -> bool:
    """Return whether the text of a .txt is JSON, or begins so that it can be nothing else."""
    if first[:1] not in ("{", "["):
        return False
    try:
        return bool(_BEGINS_JSON.match(first)) or isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _json_records(path: Path, text: str, lines: list[str]) -> Iterator[Any]:
    """Yield the entries of one JSON list, of JSON values one after the other, or of JSON lines, some broken.

    Raises ConfigError where most lines are broken.
    """
    decoder, blank, values = json.JSONDecoder(object_pairs_hook=_json_object), re.compile(r"\s*"), []
    try:
        place = blank.match(text).end()
        while place < len(text):
            value, end = decoder.raw_decode(text, place)
            values.append(value)
            place = blank.match(text, end).end()
    except (ValueError, RecursionError) as error:
        values, broken = [], 0
        for line in lines:
            try:
                values.append(decoder.decode(line))
            except (ValueError, RecursionError):
                values.append(RefusedEntry("no JSON", "is no JSON"))
                broken += 1
        if 2 * broken > len(lines):
            place = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
            cure = "repair it, or write one prompt a line into a .txt"
            raise ConfigError("prompts", path, f"it begins as JSON and is no JSON{place}", cure) from error
    yield from values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RefusedEntry:
    """Make a JSON object, of which json.loads would keep the last of two fields of one name."""
    twice = repeated_column(name for name, _ in pairs)
    return dict(pairs) if twice is None else RefusedEntry("a field twice", f"has two fields {twice}")


def _line_records(path: Path, lines: list[str]) -> Iterator[Any]:
    """Yield the lines of a text, without marks of a list, and refuse those of other formats. Raises ConfigError."""
    first = lines[0].strip() if lines else ""
    tabs = len(lines) > 1 and "\t" in first and len({line.strip().count("\t") for line in lines}) == 1
    if tabs or any(_RULE.fullmatch(line) for line in lines):
        cure = f"begin it with the names of its columns, one of them {COLUMNS[0]}, and save it as .tsv or .csv"
        raise ConfigError("prompts", path, "every line has several columns", cure)
    if lines and all(_LIST_MARK.match(line) for line in lines):
        print(f"note: prompts={path}: the mark of a list before every line is left out", file=sys.stderr)
        lines = [_LIST_MARK.sub("", line, count=1) for line in lines]
    for line in lines:
        fault = line_fault(line)
        yield line if fault is None else RefusedEntry(fault, f"is {fault}: {line.strip()!a:.60}")


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
        _require_columns(path, table.fieldnames or ())
        for row in table:
            if None in row:
                yield RefusedEntry("more cells than columns", f"(line {table.line_num}) has more cells than columns")
            elif fault := misplaced_cell(row):
                yield RefusedEntry("words as a number", f"(line {table.line_num}) {fault}")
            else:
                yield row
    except csv.Error as error:
        problem = f"line {table.line_num} breaks the quotes of the table ({error})"
        raise ConfigError(
            "prompts", path, problem, "put quotes around a whole cell, and double those inside"
        ) from error


def _require_columns(path: Path, names: Sequence[str]) -> None:
    """Check that a table has prompts, and no column that is read twice. Raises ConfigError."""
    if not {name.strip().casefold() for name in names} & {*PROMPT_COLUMNS}:
        problem = f"no column is one of {', '.join(COLUMNS)}; it has {', '.join(names[:SHOWN_COLUMNS]) or 'nothing'}"
        raise ConfigError("prompts", path, problem, "name the column of prompts so")
    if twice := repeated_column(names):
        raise ConfigError("prompts", path, f"two columns are named {twice}", "rename one of them")


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet table, with None for columns that are not read. Raises ConfigError."""
    require_kind(path, "prompts", ("parquet",))
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
        from pyarrow.types import is_binary, is_nested
    except ImportError as error:
        cure = "install it, or convert the file to jsonl"
        raise ConfigError("prompts", path, "parquet needs pyarrow", cure) from error
    try:
        with ParquetFile(path) as table:
            schema = table.schema_arrow
            _require_columns(path, schema.names)
            # Pictures of a data set, which may be as large as the memory, are not read, only told of.
            opaque = {
                field.name: {} for field in schema
                if field.name.strip().casefold() in START_COLUMNS and (is_nested(field.type) or is_binary(field.type))
            }  # fmt: skip
            other = dict.fromkeys(unread_columns(dict.fromkeys(schema.names)))
            read = [name for name in schema.names if name not in opaque and name.strip().casefold() not in other]
            for batch in table.iter_batches(columns=read):
                yield from (row | opaque | other for row in batch.to_pylist())
    except (ArrowException, UnicodeDecodeError) as error:
        problem = f"this is no whole parquet file ({type(error).__name__})"
        raise ConfigError("prompts", path, problem, "restore it, or name another") from error
