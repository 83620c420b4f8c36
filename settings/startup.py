"""End a command that cannot start in one line: a Python without the packages, or Ctrl-C while they are imported."""

import sys
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).resolve().parent.parent


def end_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a missing package or Ctrl-C as one line, any other exception as Python does (`sys.excepthook`)."""
    command = Path(sys.argv[0]).name
    if isinstance(error, KeyboardInterrupt):
        print(f"{command}: stopped before it began", file=sys.stderr)
        return
    package = str(getattr(error, "name", "")).partition(".")[0]
    ours = (_ROOT / package).is_dir() or (_ROOT / f"{package}.py").is_file()
    if isinstance(error, ModuleNotFoundError) and package and not ours:
        problem = f"{sys.executable} has no package {package}"
        print(f"{command}: {problem}. Fix: source .venv/bin/activate (make demo makes .venv).", file=sys.stderr)
        return
    sys.__excepthook__(kind, error, trace)
