"""Read the commit of the checkout."""

import subprocess
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def commit() -> str:
    """Name the commit of this checkout, marked where the tree differs; "unknown" outside git, as in a submitted job."""
    git = ["git", "-C", str(_CHECKOUT)]
    try:
        sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return sha + (" with changes" if changed else "")
