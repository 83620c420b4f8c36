"""A benchmark as a command: --help prints its page, a mistake of the user's is one line and exit status 2."""

import sys
from collections.abc import Callable, Sequence


def run(name: str, page: str | None, main: Callable[[Sequence[str]], None]) -> None:
    """Give `main` the arguments of the command line; it raises ValueError, in one line, for a mistake in them."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(page)
        return
    try:
        main(arguments)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
