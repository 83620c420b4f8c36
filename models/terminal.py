"""What a command prints for people. Imports no torch: help must be quick."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def answer_help(page: Callable[[], str]) -> None:
    """Print --help and leave, where it is asked for. Call it before torch is imported, so that it comes at once."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        with readable_in_part():
            print(page())
        sys.exit(0)


@contextmanager
def readable_in_part() -> Iterator[None]:
    """Who reads the first lines of what is printed and closes the pipe has what he wanted: the command ends well."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again as it ends
        sys.exit(0)
