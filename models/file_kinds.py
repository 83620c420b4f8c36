"""Recognise files by their first bytes, whatever their names say, and read text in any Unicode encoding."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from models.errors import ConfigError

_HEAD_BYTES = 1024
_SNIFFED_BYTES = 4096
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
"""Characters that no text has, beside tabs, line ends and escape sequences."""


class FileKind(NamedTuple):
    """Describes a kind of file that its first bytes reveal."""

    name: str
    label: str
    """The kind in a message."""
    cure: str
    """Advice where another kind is needed."""


POINTER = FileKind("pointer", "the pointer of a file that Git LFS has not fetched", "run git lfs pull in its folder")
PAGE = FileKind("page", "a web page or another answer of a server", "download the file again")
_OTHER = "name the right file"
_UNPACK = "unpack it"
PICTURES = frozenset({"png", "jpeg", "gif", "webp", "tiff", "bmp"})
VIDEOS = frozenset({"mp4", "matroska", "avi"})
_MAGIC = (
    # First: the length that it begins with may look like the mark of any other kind.
    (rb".{4}\x00{4}\{", FileKind("safetensors", "a safetensors file of weights", _OTHER)),
    (rb"GGUF", FileKind("gguf", "a GGUF file of quantized weights", _OTHER)),
    (rb"\x89PNG\r\n\x1a\n", FileKind("png", "a PNG picture", _OTHER)),
    (rb"\xff\xd8\xff", FileKind("jpeg", "a JPEG picture", _OTHER)),
    (rb"GIF8[79]a", FileKind("gif", "a GIF picture", _OTHER)),
    (rb"RIFF....WEBP", FileKind("webp", "a WebP picture", _OTHER)),
    (rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+", FileKind("tiff", "a TIFF picture", _OTHER)),
    (rb"BM.{4}\x00{4}", FileKind("bmp", "a BMP picture", _OTHER)),
    (rb".{4}ftyp(hei|mif1|msf1|avi[fs])", FileKind("heic", "a HEIC or AVIF picture", "save it as PNG or JPEG")),
    (rb".{4}ftyp", FileKind("mp4", "an MP4 video", _OTHER)),
    (rb"\x1aE\xdf\xa3", FileKind("matroska", "a Matroska or WebM video", _OTHER)),
    (rb"RIFF....AVI ", FileKind("avi", "an AVI video", _OTHER)),
    (rb"PAR1", FileKind("parquet", "a Parquet table", "end its name in .parquet")),
    (rb"%PDF", FileKind("pdf", "a PDF document", _OTHER)),
    (rb"PK\x03\x04", FileKind("zip", "a zip archive, or a file of torch.save", _UNPACK)),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh\d|\xfd7zXZ", FileKind("packed", "a compressed file", _UNPACK)),
    (rb"\x80[\x02-\x05]", FileKind("pickle", "a Python pickle", _OTHER)),
    (rb"version https://git-lfs\.github\.com/spec/", POINTER),
    (rb"(\xef\xbb\xbf)?\s*(?i:<!--|<!doctype|<html|<head|<body|<\?xml)", PAGE),
    # An element that is closed, or the first one inside it: prompts may begin with <sks> or <lora:x:1>.
    (rb"(\xef\xbb\xbf)?\s*(<[A-Za-z][^<>]*>\s*)?<([A-Za-z][\w.-]*)[^<>]*>.*</\3\s*>", PAGE),
    (
        rb"(?i:\s*([45]\d\d\b[:,.]?\s*)?((entry |repository |revision |page |file )?not found|forbidden|"
        rb"access denied|unauthorized|internal server error|bad gateway|service unavailable|"
        rb"gateway time-?out|too many requests|invalid (username or password|credentials)[\w .]*)[.!]?\s*\Z)",
        PAGE,
    ),
)
_NO_PROMPTS = tuple(
    (re.compile(pattern, re.DOTALL), fault)
    for pattern, fault in (
        (r"[!-/:-@\[-`{-~\s]+", "punctuation only"),
        (r"""\{\s*["'{}].*|\[\s*["'{].*|\[\s*\[\s*[-.\d].*,.*""", "a piece of JSON"),
        (r""""[^"]*"\s*:.*|'\w*'\s*:.*|".*"\s*,|'.*'\s*,""", "a piece of JSON"),
        (r"(-\s+)?(prompt|prompt_en|prompts|prompt_schedule|text|caption)\s*[:=].*", "a field of YAML"),
        (r"<[!/?].*|(<[A-Za-z/][^<>:]*>\s*)*<([A-Za-z][\w.-]*)[^<>]*>.*</\2\s*>.*", "markup"),
        (r"\|.*\|", "a row of a Markdown table"),
        (r"#+\s.*|//.*", "a heading or a comment"),
        (r"```.*|~~~.*", "a fence of Markdown"),
    )
)
"""Lines of other formats than a prompt a line, and their names."""
_PATTERNS = [(re.compile(pattern, re.DOTALL), kind) for pattern, kind in _MAGIC]


def file_kind(path: Path) -> FileKind | None:
    """Recognise the kind of a file by its first bytes; None for text and for unknown kinds. Raises OSError."""
    with path.open("rb") as file:
        return _kind_of(file.read(_HEAD_BYTES))


def other_kind(path: Path, kinds: Collection[str]) -> FileKind | None:
    """Recognise a file of another kind than `kinds`; None for one of them, or of no known kind. Raises OSError."""
    kind = file_kind(path)
    return None if kind is None or kind.name in kinds else kind


def require_kind(path: Path, key: str, kinds: Collection[str] = ()) -> None:
    """Check that a file is of `kinds`, or of none that is recognised. Raises ConfigError with its kind, and OSError."""
    if kind := other_kind(path, kinds):
        raise ConfigError(key, path, f"this is {kind.label}", kind.cure)


def read_text(path: Path, key: str) -> str:
    """Read a text file: UTF-8, or UTF-16 or UTF-32 by its byte order mark or its zero bytes.

    Raises ConfigError for other content, and OSError. Other encodings are not guessed: a wrong guess would be silent.
    """
    require_kind(path, key)
    content = path.read_bytes()
    try:
        text = content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        problem = f"this is not {error.encoding.upper()} text (byte {error.start})"
        raise ConfigError(key, path, problem, "convert it to UTF-8, as iconv does") from error
    if kind := _kind_of(text[:_HEAD_BYTES].encode()):  # a page in UTF-16
        raise ConfigError(key, path, f"this is {kind.label}", kind.cure)
    if control := _CONTROLS.search(text):
        problem = f"this is no text (character {control.start()} is {control[0]!a})"
        raise ConfigError(key, path, problem, "name a text file")
    return text


def line_fault(line: str) -> str | None:
    """Describe a line of text that is no prompt, but a piece of another format; None for a prompt."""
    return next((fault for pattern, fault in _NO_PROMPTS if pattern.fullmatch(line.strip())), None)


def _kind_of(head: bytes) -> FileKind | None:
    return next((kind for pattern, kind in _PATTERNS if pattern.match(head)), None)


def _encoding(content: bytes) -> str:
    """Choose the Unicode encoding of `content`, UTF-8 unless a mark or zero bytes tell otherwise."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32"}
    marks |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    if marked := next((encoding for mark, encoding in marks.items() if content.startswith(mark)), None):
        return marked
    head = content[:_SNIFFED_BYTES]
    even, odd = (head[start::2].count(0) / max(1, len(head) // 2) for start in (0, 1))
    if min(even, odd) < 0.05 and max(even, odd) > 0.4:  # Latin letters are every second byte
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"
