"""The commands of docs/cluster.md, as they stand there."""

import re

from settings.compose import ROOT

PAGE = ROOT / "docs/cluster.md"
MARK = "# real GPUs"


def commands() -> list[str]:
    """Every line of every block, comments included."""
    blocks = re.findall(r"(?ms)^```\n(.*?)^```$", PAGE.read_text())
    return [line for block in blocks for line in block.splitlines() if line]


def documented(start: str, replaced: dict[str, str] | None = None) -> str:
    """The one command without the mark that begins with `start`, with its placeholders replaced."""
    (found,) = (line for line in commands() if line.startswith(start) and MARK not in line)
    for placeholder, value in (replaced or {}).items():
        found = found.replace(placeholder, value)
    return found
