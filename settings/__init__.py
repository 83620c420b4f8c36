"""Parse command lines with Hydra, print help, and set exit codes."""

from settings.command import arguments, command, prepare_run, run_errors, run_loop, user_errors
from settings.compose import ROOT, choices, load, read_keys
from settings.key_table import keys_of

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
]
