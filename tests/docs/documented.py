"""The pages, and the commands in their blocks of code."""

import re
from pathlib import Path

from settings.compose import ROOT

MARK = "# real GPUs"


def pages() -> list[Path]:
    """List every page that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    """List the commands of docs/cluster."""
    return [line for page in sorted((ROOT / "docs/cluster").glob("*.md")) for line in lines_of_blocks(page) if line]


def lines_of_blocks(page: Path) -> list[str]:
    """List the lines of the blocks of code without a language; drawings say that they are text."""
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page.read_text())
    return [line for language, block in blocks if not language for line in block.splitlines()]


def documented(start: str, replaced: dict[str, str] | None = None) -> str:
    """Return the one command of docs/cluster without the mark that begins with `start`, placeholders replaced."""
    (command,) = (line for line in commands() if line.startswith(start) and MARK not in line)
    for placeholder, value in (replaced or {}).items():
        command = command.replace(placeholder, value)
    return command


METRICS = ROOT / "docs/reference/metrics.md"


def metric_keys() -> list[str]:
    """List the keys in the first column of the tables of metrics; <...> stands for anything."""
    rows = [line for line in METRICS.read_text().splitlines() if line.startswith("| `")]
    return [re.match(r"\| `([^`]+)` \|", row)[1] for row in rows]


def pattern(key: str) -> re.Pattern:
    """Return what a key of the page matches in a log."""
    return re.compile(re.sub("<[^>]+>", "[a-z0-9_]+", key))
