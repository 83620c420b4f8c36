"""Read the prompts of MovieGen's video benchmark, and recognise which of its lists a file is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigError
from models.file_kinds import line_fault, require_kind

PAPER_PROMPTS = 128
"""Prompts of the paper's evaluation: the first ones of the extended list."""
_LISTS = {
    "ae02a4bb": "MovieGenVideoBench, 1,003 prompts",
    "50293c27": "MovieGenVideoBench extended, 1,003 prompts",
    "7b7cb649": "MovieGenVideoBench extended, first 128 prompts",
}
"""Lists that Self-Forcing and RAVEN ship, by the beginning of their SHA-256."""
_OTHER = "another list"


@dataclass(frozen=True)
class BenchmarkPrompts:
    """Hold the first prompts of a file, and what identifies the file."""

    texts: tuple[str, ...]
    file: str
    """Name of the file without its folder."""
    lines: int
    sha256: str
    source: str
    """Name of the list, or `another list`."""
    first_source: str
    """Name of the list that the first prompts are by themselves, or `another list`."""


def moviegen_prompts(path: Path, count: int = PAPER_PROMPTS) -> BenchmarkPrompts:
    """Read the first `count` prompts of a file with one prompt per line. Raises ConfigError."""
    fix = "name a UTF-8 file with one prompt per line"
    try:
        require_kind(path, "prompts")
        content = path.read_bytes()
        rows = content.splitlines(keepends=True)
        texts = [row.decode("utf-8").strip() for row in rows[:count]]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("prompts", path, f"cannot be read ({error})", fix) from error
    if len(rows) < count:
        raise ConfigError("prompts", path, f"it has {len(rows)} lines, {count} are needed", fix)
    if not all(texts):
        raise ConfigError("prompts", path, f"line {texts.index('') + 1} is empty", fix)
    digest, first = (hashlib.sha256(part).hexdigest() for part in (content, b"".join(rows[:count])))
    if prompt_list(first) == _OTHER:
        for number, text in enumerate(texts, 1):
            if fault := line_fault(text):
                raise ConfigError("prompts", path, f"line {number} is {fault}, no prompt", fix)
    return BenchmarkPrompts(tuple(texts), path.name, len(rows), digest, prompt_list(digest), prompt_list(first))


def prompt_list(digest: str) -> str:
    """Return the name of the list with this SHA-256."""
    return _LISTS.get(digest[:8], _OTHER)
