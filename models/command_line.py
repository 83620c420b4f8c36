"""Values of `key=value` arguments, for commands that have no need of Hydra. Imports no torch: help must be quick."""

import types
from typing import Any, get_args, get_origin


def read_value(name: str, text: str, hint: Any) -> Any:
    """`text` as the type of its field: str, bool, int or float, each also with None.

    Raises ValueError, in one line with `name`, for one that cannot be read.
    """
    if get_origin(hint) is types.UnionType:
        (hint,) = (kind for kind in get_args(hint) if kind is not types.NoneType)
    if hint is str:
        return text
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{name}={text} cannot be read; write true or false")
        return text == "true"
    try:
        return hint(text)
    except ValueError as error:
        raise ValueError(f"{name}={text} cannot be read; write a number ({hint.__name__})") from error
