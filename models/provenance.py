"""Read the commit of the checkout."""

import subprocess
from pathlib import Path

_PATIENCE_S = 10.0
"""Longest wait for git, which may wait for a network disk, in seconds."""
_CHECKOUT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Name the commit of this checkout, marked where the tree differs; "unknown" outside git, as in a submitted job."""
    git = ["git", "-C", str(_CHECKOUT)]
    try:
        sha = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=_PATIENCE_S
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=_PATIENCE_S
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return sha + (" with changes" if changed else "")
