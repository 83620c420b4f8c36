"""Run a benchmark as a command: its page is the help, its options are read as those of every command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import settings


@dataclass(kw_only=True)
class NoKeys:
    """Takes no arguments."""


def run(main: Callable, page: str | None, schema: type = NoKeys, positional: str | None = None) -> None:
    """Read the command line into `schema` and give it to `main`; `positional` names the key of a bare argument."""

    def read(arguments: Sequence[str]) -> object:
        named = [text if positional is None or "=" in text else f"{positional}={text}" for text in arguments]
        return settings.read_keys(named, schema)

    settings.command(main, schema, page or "", read)
