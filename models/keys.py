"""One documented configuration key: its default and the line that `--help` prints."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any
from urllib.parse import urlsplit

DTYPES = ("float32", "bfloat16")
"""What networks compute in."""


def key(default: Any, doc: str) -> Any:
    """A dataclass field with its documentation. Lists and mappings are copied for every instance."""
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


def require_share(group: str, config: Any, *names: str) -> None:
    """Refuse values outside [0, 1), by the full name of the key."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{group}.{name} is {value}; it must be at least 0 and below 1")


def require_positive(group: str, config: Any, *names: str) -> None:
    """Refuse values that are not above 0 and finite, by the full name of the key."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{group}.{name} is {value}; it must be above 0 and finite")


def require_choice(group: str, config: Any, name: str, choices: Sequence[str]) -> None:
    """Refuse what is none of `choices`, by the full name of the key."""
    value = getattr(config, name)
    if value not in choices:
        others = ", ".join(choices[:-1])
        raise ValueError(f'{group}.{name} is "{value}"; set it to {others} or {choices[-1]}')


def require_address(name: str, url: str) -> None:
    """Refuse what is no address of HTTP. Never repeats it: it may carry what is not to be read."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:  # a port that is no number, or too large
        whole = False
    if not whole:
        raise ValueError(f"{name} is no address; write http://host:port/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{name} has a user name or password in it, which the run's config.yaml would keep; give it without"
        )
