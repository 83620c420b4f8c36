"""Define the errors of all packages, in one form."""

from typing import Any


class ConfigError(ValueError):
    """Rejects a value that the user gave, in one line: `KEY=VALUE: problem. Fix: fix.`

    `key` is the dotted key, `value` what it holds (None leaves it out of the line), `problem` and `fix` are clauses
    without a full stop.
    """

    def __init__(self, key: str, value: Any, problem: str, fix: str):
        self.key, self.value, self.problem, self.fix = key, value, problem, fix
        super().__init__(key, value, problem, fix)

    def __str__(self) -> str:
        given = self.key if self.value is None else f"{self.key}={written(self.value)}"
        line = f"{given}: {self.problem}. Fix: {self.fix}."
        # One line of a terminal, whatever was typed: line breaks, and bytes that are no text.
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)


class StopsRun(RuntimeError):
    """Ends a run for a reason that a restart would repeat, such as a non-finite loss or a damaged checkpoint."""

    status = 1
    """Exit status of the command."""


def written(value: Any) -> str:
    """Write `value` as one types it on a command line: true, null, [1,2], {a: 1}."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(written(part) for part in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {written(part)}' for name, part in value.items())}}}"
    return str(value)
