"""Parse command lines with Hydra, print help, and set exit codes."""

from settings.compose import (
    ROOT,
    all_keys,
    answer_help,
    choices,
    explain,
    load,
    load_student,
    refusing,
    run,
    stopping,
    values_of,
)

__all__ = [
    "ROOT",
    "all_keys",
    "answer_help",
    "choices",
    "explain",
    "load",
    "load_student",
    "refusing",
    "run",
    "stopping",
    "values_of",
]
