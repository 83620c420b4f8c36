"""Declare configuration keys with their ranges, and check their values."""

import math
import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, ClassVar
from urllib.parse import urlsplit

from models.errors import ConfigError

DTYPES = ("float32", "bfloat16")
"""Types in which networks compute."""
_MOST_WHOLE, _MOST = 2**31 - 1, 1e9
"""Bounds, both ways, of whole and other numbers whose key names none, at any depth of a list or mapping."""
_MEANT = {"gpu": "cuda"}
"""Values that are written for others, and are more like a third."""
_HOLDS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
_WORDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def key(
    default: Any,
    doc: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: Collection[str] = (),
    resumable: bool = False,
) -> Any:
    """Declare a field with its help line, and the range or choices of its value (of each number in a list or mapping).

    Every number is finite, but for infinity itself with `le=math.inf`; None is never checked. A run may resume with
    another value of a `resumable` key.
    """
    bounds = {name: bound for name, bound in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if bound is not None}
    metadata = {"doc": doc, "bounds": bounds, "choices": choices, "resumable": resumable}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def part(kind: type, *, resumable: bool = False, **defaults: Any) -> Any:
    """Declare a field that holds a group of keys, with other defaults than those of its class."""
    return field(default_factory=lambda: kind(**defaults), metadata={"resumable": resumable})


class KeyGroup:
    """Checks the declared ranges of a dataclass of keys whenever one is made; its parts are checked with it."""

    _prefix: ClassVar[str] = ""

    def __init_subclass__(cls, group: str = "", **options: Any):
        super().__init_subclass__(**options)
        if group:
            cls._prefix = f"{group}."

    def __post_init__(self):
        check_ranges(self, self._prefix)


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check every value of a dataclass against its field. Raises ConfigError under the dotted key."""
    for one in fields(config):
        name, value = f"{prefix}{one.name}", getattr(config, one.name)
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
        if value is None or is_dataclass(value):
            continue
        choices, bounds = one.metadata.get("choices"), one.metadata.get("bounds")
        if choices and value not in choices:
            close = get_close_matches(_MEANT.get(str(value).lower(), str(value)), choices, 1)
            *others, last = choices
            fix = f"write {close[0]}" if close else f"write {', '.join(others)} or {last}"
            raise ConfigError(name, value, f"none of {', '.join(choices)}", fix)
        for number in _numbers(value):
            _check_number(name, value, number, bounds or {})


def _numbers(value: Any) -> Iterator[float]:
    """Return the number that a value is, or those in its lists and mappings."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        yield from _numbers(part)


def _check_number(name: str, value: Any, number: float, declared: Mapping[str, float]) -> None:
    """Check one number of the value of a key against its declared bounds, and those of all numbers."""
    if number == math.inf == declared.get("le"):
        return
    most = _MOST_WHOLE if isinstance(number, int) else _MOST
    bounds = {bound: limit for bound, limit in declared.items() if math.isfinite(limit)}
    if not bounds.keys() & {"gt", "ge"}:
        bounds["ge"] = -most
    if not bounds.keys() & {"lt", "le"}:
        bounds["le"] = most
    if not all(_HOLDS[bound](number, limit) for bound, limit in bounds.items()):
        words = " and ".join(
            f"{_WORDS[bound]} {limit if isinstance(limit, int) else f'{limit:g}'}" for bound, limit in bounds.items()
        )
        infinite = ", or inf" if "le" in declared and math.isinf(declared["le"]) else ""
        raise ConfigError(name, value, "out of range", f"write a number {words}{infinite}")


def nearest_multiples(name: str, value: int, step: int) -> str:
    """Write the advice to take one of the two multiples of `step` around `value`: "write x=18 or 21"."""
    below = value // step * step
    return f"write {name}={f'{below} or ' if below else ''}{below + step}"


def resumable_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Return the dotted names of keys and groups of keys that a resumed run may change."""
    for one in fields(config):
        if one.metadata.get("resumable"):
            yield f"{prefix}{one.name}"
        elif is_dataclass(value := getattr(config, one.name)):
            yield from resumable_keys(value, f"{prefix}{one.name}.")


def check_address(name: str, url: str) -> None:
    """Check that a key holds an HTTP address without credentials. The error never repeats it: it may hold a secret."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:  # a port that is no number, or too large
        valid = False
    if not valid:
        raise ConfigError(name, None, "no HTTP address", "write http://host:port/path")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            name, None, "a user name or password is in it, which config.yaml would keep", "write the address without"
        )
