"""Rubrics: the texts by which the judge decides, each with an id, a version, and the form of its answer."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigError
from models.user_paths import user_path

_FOLDER = Path(__file__).parent / "rubrics"
_FIELDS = ("id", "version", "answer")
SCORE, VERDICT = "score", "verdict"
"""Forms of an answer: one score of one video, or the better of two videos."""


@dataclass(frozen=True)
class Rubric:
    """Holds the judge's instruction."""

    id: str
    version: str
    answer: str
    """SCORE or VERDICT."""
    text: str
    digest: str
    """SHA-256 of the file."""

    @property
    def record(self) -> dict[str, str]:
        """Return what a transcript keeps."""
        return {"id": self.id, "version": self.version, "sha256": self.digest}


def load_rubric(name: str, answer: str, key: str) -> Rubric:
    """Read a shipped rubric by its name, or a file by its path.

    The file begins with the lines `id: ID`, `version: VERSION` and `answer: score` (or verdict), and an empty one.
    Raises ConfigError for `key`, also where the rubric asks for another form of answer.
    """
    shipped = _FOLDER / f"{name}.txt"
    path = shipped if shipped.parent == _FOLDER and shipped.is_file() else user_path(name, key)
    names = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.txt")))
    fix = f"name {names} or the path of a file"
    try:
        content = path.read_bytes()
        head, _, text = content.decode().replace("\r\n", "\n").partition("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(key, name, f"no rubric can be read there ({type(error).__name__})", fix) from error
    fields = dict(line.partition(":")[::2] for line in head.splitlines())
    fields = {field: value.strip() for field, value in fields.items()}
    if tuple(fields) != _FIELDS or not all(fields.values()) or not text.strip():
        lines = ", ".join(f"`{field}: ...`" for field in _FIELDS)
        raise ConfigError(key, name, f"its first lines are not {lines}, then an empty line and the text", fix)
    if fields["answer"] != answer:
        raise ConfigError(key, name, f"it asks for a {fields['answer']}, not for a {answer}", fix)
    return Rubric(**fields, text=text.strip(), digest=hashlib.sha256(content).hexdigest())
