"""Parse command lines with Hydra, print help, and set exit codes."""

import sys

from settings.startup import end_in_one_line

sys.excepthook = end_in_one_line  # before the imports below, which need packages

from settings.command import (  # noqa: E402
    arguments,
    command,
    prepare_run,
    run_errors,
    run_loop,
    user_errors,
    with_weights,
)
from settings.compose import ROOT, choices, load, read_keys  # noqa: E402
from settings.key_table import keys_of  # noqa: E402

__all__ = [
    "ROOT",
    "arguments",
    "choices",
    "command",
    "keys_of",
    "load",
    "prepare_run",
    "read_keys",
    "run_errors",
    "run_loop",
    "user_errors",
    "with_weights",
]
