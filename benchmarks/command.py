"""A benchmark as a command: --help prints its page, a mistake of the user's is one line and exit status 2."""

import sys
from collections.abc import Callable, Sequence

from models.terminal import answer_help, readable_in_part


def run(name: str, page: str | None, main: Callable[[Sequence[str]], None]) -> None:
    """Give `main` the arguments of the command line; it raises ValueError, in one line, for a mistake in them."""
    answer_help(lambda: page or "")
    try:
        with readable_in_part():
            main(sys.argv[1:])
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
