"""Write docs/reference/keys.md from the help of each command: python -m tests.docs.reference"""

import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/keys.md"
COMMANDS = {
    "train": ["train.py"],
    "tune": ["tune.py"],
    "plan": ["plan.py"],
    "generate": ["generate.py"],
    "convert": ["convert.py"],
    "rewards.try": ["-m", "rewards.try"],
    "models.worlds.make_mini": ["-m", "models.worlds.make_mini"],
}
KEY = re.compile(r"^ +([a-z_]+(?:\.[a-z0-9_]+)*)  +(\S.*) \[(.*)\]$")
HEAD = """# Keys

Every key of every command, with its default before a preset changes it. This page is generated from `--help all` by
`python -m tests.docs.reference` (`make docs` does it); do not edit it.
"""


def help_of(command: str) -> str:
    """Return what `--help all` of a command prints."""
    run = [sys.executable, *COMMANDS[command], "--help", "all"]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def keys_of(command: str) -> dict[str, tuple[str, str]]:
    """Return meaning and default of each key that a command lists."""
    found = (KEY.match(line) for line in help_of(command).splitlines())
    return {match[1]: (match[2], match[3]) for match in found if match}


def page() -> str:
    """Compose the page: one table for each group of keys of train.py, one for each other command."""
    trained = keys_of("train")
    lines = [HEAD.strip(), "", "## train.py", ""]
    for group, names in groupby(sorted(trained, key=lambda name: ("." in name, name.partition(".")[0])), _group):
        lines += [f"### {group or 'top level'}", "", *_table({name: trained[name] for name in names}), ""]
    for command in COMMANDS:
        own = {name: entry for name, entry in keys_of(command).items() if command not in ("tune", "plan") or
               name not in trained}  # fmt: skip
        if command == "train":
            continue
        title = command if "." in command else f"{command}.py"
        also = ", in addition to those of train.py" if command in ("tune", "plan") else ""
        lines += [f"## {title}", "", f"Keys of `{title}`{also}.", "", *_table(own), ""]
    return "\n".join(lines).rstrip() + "\n"


def _group(name: str) -> str:
    return name.partition(".")[0] if "." in name else ""


def _table(keys: dict[str, tuple[str, str]]) -> list[str]:
    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;").replace("`", "")

    rows = [f"| `{name}` | `{cell(default)}` | {cell(meaning)} |" for name, (meaning, default) in keys.items()]
    return ["| key | default | meaning |", "| --- | --- | --- |", *rows]


if __name__ == "__main__":
    PAGE.write_text(page())
