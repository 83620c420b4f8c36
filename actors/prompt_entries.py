"""Make entries of the raw records of a prompt file: a prompt or a schedule, and the start of its video."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

COLUMNS = ("prompt", "prompt_en", "text", "caption")
"""Names under which an entry may keep its prompt; the first that is not empty counts."""
_SCHEDULES = ("prompt_schedule", "prompts")
PROMPT_COLUMNS = (*COLUMNS, *_SCHEDULES)
START_COLUMNS = ("image", "video")
_READ = (*PROMPT_COLUMNS, "seconds", *START_COLUMNS)
_LABELS = ("", "id", "idx", "index", "unnamed: 0")
"""Columns that number entries, which nobody misses."""
_NUMBERS = (
    "duration", "seed", "fps", "height", "width", "frames", "n_frames", "num_frames", "steps", "num_inference_steps",
    "guidance_scale", "cfg",
)  # fmt: skip
_NO_WORDS = re.compile(r"\s*([-+.]?\d.*|-|n/?an?|none|null|auto|default|random|)\s*", re.IGNORECASE | re.DOTALL)
"""Cells that a column of numbers may have."""
_LONGEST_S = 1e9
"""Last second at which a scene may begin."""
SHOWN_COLUMNS = 8


class RefusedEntry(Exception):
    """Reports an entry that cannot be used: the reason to count it by, and a sentence about it."""


@dataclass(frozen=True)
class PromptEntry:
    """Holds one entry of a prompt file."""

    scenes: tuple[tuple[float | None, str], ...]
    """(second at which it begins, prompt), one for most entries; None in all of them where the file has no times."""
    start: str | None = None
    """Picture or clip that the video begins with, as the file names it."""
    start_fault: str = ""
    """Reason for which the entry's columns name no start, where they hold something else; empty for none."""


def prompt_entry(record: Any) -> PromptEntry:
    """Make an entry of a raw record: a text, a mapping or a RefusedEntry. Raises RefusedEntry."""
    if isinstance(record, RefusedEntry):
        raise record
    if isinstance(record, str):
        record = {COLUMNS[0]: record}
    if not isinstance(record, Mapping):
        raise RefusedEntry("no object", f"is {type(record).__name__}, neither a text nor an object")
    columns = _named(record)
    start = _start(columns)
    for name in _SCHEDULES:
        if columns.get(name) not in (None, ""):
            return PromptEntry(_scenes(name, columns[name], columns.get("seconds")), *start)
    known = [name for name in COLUMNS if name in columns]
    if not known:
        raise RefusedEntry(
            "no prompt",
            f"has none of {', '.join(COLUMNS)}; it has {', '.join([*columns][:SHOWN_COLUMNS]) or 'nothing'}",
        )
    for name in known:
        if columns[name] is not None and not isinstance(columns[name], str):
            raise RefusedEntry("no text", f"has {type(columns[name]).__name__} as {name}, no text")
        if text := _clean(columns[name] or ""):
            return PromptEntry(((0.0, text),), *start)
    raise RefusedEntry("empty", f"has an empty {known[0]}")


def unread_columns(record: Any) -> list[str]:
    """List the columns of a record that are not read, but for those that number entries."""
    if not isinstance(record, Mapping):
        return []
    columns = _named(record)
    lone = not any(columns.get(name) for name in _SCHEDULES) and columns.get("seconds") not in (None, "")
    return [name for name in columns if name not in (*_READ, *_LABELS) or (name == "seconds" and lone)]


def repeated_column(names: Iterable[Any]) -> str | None:
    """Find a column that is read and occurs twice, of which one would be lost."""
    read = [name for name in (str(name).strip().casefold() for name in names) if name in _READ]
    return next((name for name in read if read.count(name) > 1), None)


def misplaced_cell(row: Mapping[str, str | None]) -> str | None:
    """Find a column of numbers in whose cell words stand, as after a comma without quotes, and describe it."""
    for name, value in _named(row).items():
        if name in _NUMBERS and value is not None and not _NO_WORDS.fullmatch(value):
            return f"has {value.strip()!a:.40} as {name}: a prompt with commas needs quotes"
    return None


def schedule_problem(scenes: Any) -> str | None:
    """Describe the fault of a schedule [[second, prompt], ...]; None for a good one."""
    if not isinstance(scenes, list) or not all(
        isinstance(scene, list) and len(scene) == 2 and isinstance(scene[0], int | float)
        and not isinstance(scene[0], bool) and isinstance(scene[1], str)
        for scene in scenes
    ):  # fmt: skip
        return "not pairs of seconds and a prompt"
    if not all(-_LONGEST_S <= second <= _LONGEST_S for second, _ in scenes):  # NaN too; a long integer is no float
        return f"its seconds are not numbers up to {_LONGEST_S:g}"
    if not scenes or scenes[0][0] != 0 or any(later[0] <= earlier[0] for earlier, later in pairwise(scenes)):
        return "its seconds do not rise from 0"
    return None


def _named(record: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the columns of a record by their names in lower case."""
    return {str(name).strip().casefold(): value for name, value in record.items()}


def _start(columns: Mapping[str, Any]) -> tuple[str | None, str]:
    """Read the name of an entry's picture or clip, or the reason for which it has none."""
    filled = {name: columns[name] for name in START_COLUMNS if columns.get(name) not in (None, "")}
    if len(filled) > 1:
        return None, f"names {' and '.join(filled)}, of which a video begins with one"
    for name, value in filled.items():
        if not isinstance(value, str):
            return None, f"has {type(value).__name__} as {name}, not the name of a file"
        return value.strip() or None, ""
    return None, ""


def _scenes(name: str, value: Any, seconds: Any) -> tuple[tuple[float | None, str], ...]:
    """Read a schedule: pairs, or texts with the list `seconds` of their beginnings, or texts alone.

    Raises RefusedEntry.
    """
    if name == "prompts" and isinstance(value, str) and not value.lstrip().startswith("["):
        return ((0.0, _clean(value)),)
    try:  # cells of a table
        value = json.loads(value) if isinstance(value, str) else value
        seconds = json.loads(seconds) if isinstance(seconds, str) and seconds.strip() else seconds
    except (ValueError, RecursionError) as error:
        raise RefusedEntry("no schedule", f"has a {name}, or its seconds, that is no JSON") from error
    texts_alone = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    if texts_alone and seconds in (None, ""):
        scenes = [(None, _clean(text)) for text in value]
    else:
        if texts_alone:
            if not isinstance(seconds, list) or len(seconds) != len(value):
                raise RefusedEntry("no schedule", f"has seconds that are no list of {len(value)}, as its {name}")
            value = [list(pair) for pair in zip(seconds, value, strict=True)]
        if problem := schedule_problem(value):
            raise RefusedEntry("no schedule", f"has a {name} of another form: {problem}")
        scenes = [(float(begins_s), _clean(text)) for begins_s, text in value]
    if not all(text for _, text in scenes):
        raise RefusedEntry("empty", f"has an empty prompt in its {name}")
    return tuple(scenes)


def _clean(text: str) -> str:
    """Write white space as one space, and accents as one character with their letters."""
    return unicodedata.normalize("NFC", " ".join(text.split()))
