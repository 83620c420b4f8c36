"""Commands run in this process, as a shell would run them."""

import runpy
import signal
import sys

from settings.compose import ROOT


def run_script(script: str, *arguments: str) -> int:
    """Run `python SCRIPT ARGUMENTS`, or `python -m MODULE ARGUMENTS`, without a process; returns the exit status."""
    before, path = sys.argv, ROOT / (script if script.endswith(".py") else f"{script.replace('.', '/')}.py")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    sys.argv = [str(path), *arguments]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
        for number, handler in handlers.items():  # a command may install its own
            signal.signal(number, handler)
    return 0


def replaced(arguments, *changes: str) -> list[str]:
    """Arguments, each of which gives way to a later one of the same key: a command takes no key twice."""
    return ["=".join(pair) for pair in dict(one.split("=", 1) for one in [*arguments, *changes]).items()]


def mistake(capsys, script: str, *arguments: str) -> str:
    """Run a command that must end with status 2 and one line; returns the line behind the command's name."""
    capsys.readouterr()
    assert run_script(script, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"{script}: ") and shown.err.count("\n") == 1 and len(shown.err) < 600, shown.err
    return shown.err.removeprefix(f"{script}: ").rstrip("\n")
