"""Read `key=value` arguments against a dataclass of keys."""

import math
import re
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from cluster.config.renamed_keys import RENAMED
from models.errors import ConfigError

PATHS = frozenset({
    "run_dir", "teacher", "base", "init", "prompts", "vae", "text_encoder", "text_cache", "grpo.init", "grpo.critic",
    "prompt.cache", "reward.raft_weights", "ode.pairs_dir", "debug.windows",
})  # fmt: skip
"""Keys of a run that hold paths: made absolute when read, and never split at commas."""
_CALL = re.compile(r"(?<=[=,:\[{])(\s*)(\w+\([-+\w., ]*\))(?=\s*(?:[,\]}]|$))")
"""Window laws such as beta(1, 2), which Hydra would read as calls to functions of its own."""


@dataclass(frozen=True)
class Key:
    """Describe one key of a command."""

    name: str
    """Dotted."""
    hint: Any
    """Type of its value."""
    default: Any
    doc: str

    @property
    def kind(self) -> Any:
        """Type of a value that is not None."""
        if not isinstance(self.hint, types.UnionType):
            return self.hint
        return next(part for part in get_args(self.hint) if part is not types.NoneType)

    @property
    def expected(self) -> str:
        """Name the values that the key takes."""
        kind = get_origin(self.kind) or self.kind
        names = {
            int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list, as [1,2]",
            dict: "a mapping, as {name: value}",
        }  # fmt: skip
        return names.get(kind, "a value") + (" or null" if self.hint is not self.kind else "")


@dataclass(frozen=True)
class Given:
    """Hold the parsed arguments of a command."""

    choices: dict[str, str]
    """Choice by group of conf/."""
    values: dict[str, Any]
    """Value by dotted key."""
    texts: dict[str, str]
    """The values as typed."""


def keys_of(schema: Any, prefix: str = "") -> dict[str, Key]:
    """List every key of a dataclass, or of an instance with other defaults, by dotted name."""
    hints, keys = get_type_hints(schema if isinstance(schema, type) else type(schema)), {}
    for field in fields(schema):
        if isinstance(schema, type):  # it may lack a value without which there is no instance
            value = field.default if field.default_factory is MISSING else field.default_factory()
        else:
            value = getattr(schema, field.name)
        name = prefix + field.name
        if is_dataclass(value):
            keys |= keys_of(value, f"{name}.")
        else:
            keys[name] = Key(name, hints[field.name], value, field.metadata["doc"])
    return keys


def nearest(text: str, choices: Collection[str]) -> str | None:
    """Find the choice that `text` most likely meant; of dotted keys, first among those of the same group."""
    group, _, last = text.rpartition(".")
    siblings = {choice.rpartition(".")[2]: choice for choice in choices if choice.rpartition(".")[0] == group}
    if group and (close := get_close_matches(last, siblings, 1, 0.3)):
        return siblings[close[0]]
    if close := get_close_matches(text, choices, 1):
        return close[0]
    names = {choice.rpartition(".")[2]: choice for choice in choices}
    return next((names[name] for name in get_close_matches(last, names, 1)), None)


def parse(arguments: Sequence[str], keys: Mapping[str, Key], groups: Mapping[str, Sequence[str]]) -> Given:
    """Read `key=value` arguments; the last of several for one key counts. Raises ConfigError.

    Text is taken as typed, but for one pair of quotes around all of it; other values follow Hydra's grammar.
    """
    given = Given({}, {}, {})
    for argument in arguments:
        name, text = split(argument)
        if name in groups:
            given.choices[name] = check_choice(name, text.strip("'\""), groups[name])
        else:
            key = find_key(name, text, keys)
            given.values[name], given.texts[name] = read_value(key, text), text
    return given


def split(argument: str) -> tuple[str, str]:
    """Take `key=value` apart at the first equals sign. Raises ConfigError."""
    name, equals, text = argument.partition("=")
    if not re.fullmatch(r"\w+", name.split(".")[0]) or not equals:
        problem = "no argument of the form key=value"
        raise ConfigError(name or "KEY", text or None, problem, "write key=value; --help lists the keys")
    name = RENAMED.get(name, name)
    if not text:
        raise ConfigError(name, "", "no value is given", f"write {name}=VALUE, or leave {name} out")
    return name, text


def check_choice(group: str, name: str, names: Sequence[str]) -> str:
    """Return `name` if the group of conf/ has it. Raises ConfigError."""
    if name in names:
        return name
    others = ", ".join(names)
    if "," in name:
        raise ConfigError(group, name, "several values, and a run has one", f"write one of {others}; tune.py scans")
    raise ConfigError(group, name, f"none of {others}", f"write {group}={nearest(name, names) or names[0]}")


def find_key(name: str, text: str, keys: Mapping[str, Key]) -> Key:
    """Find a key, or an entry of a mapping, by its dotted name. Raises ConfigError for an unknown one."""
    name = RENAMED.get(name, name)
    if name in keys:
        return keys[name]
    for owner in keys.values():
        if name.startswith(f"{owner.name}.") and get_origin(owner.kind) is dict:
            return Key(name, get_args(owner.kind)[1], None, owner.doc)
    if any(other.startswith(f"{name}.") for other in keys):
        raise ConfigError(name, text, "a group of keys", f"write one of its keys; --help {name} lists them")
    other = nearest(name, keys)
    cure = f"write {other}={text}" if other else "choose one of the keys that --help all lists"
    raise ConfigError(name, text, "no such key", cure)


def read_value(key: Key, text: str) -> Any:
    """Read the text of a value by the type of its key. Raises ConfigError."""
    if key.kind is str:
        if key.hint is not str and text.lower() == "null":
            return None
        return text[1:-1] if len(text) > 1 and text[0] in "'\"" and text.find(text[0], 1) == len(text) - 1 else text
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if key.kind is float:
        text = re.sub(r"^([+-]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE)  # as YAML writes them
    try:
        override = OverridesParser.create().parse_override(_CALL.sub(r"\1'\2'", f"_={text}"))
    except HydraException as error:
        raise ConfigError(
            key.name, text, "this cannot be read", f"write {key.expected}, in quotes for the shell"
        ) from error
    if override.is_sweep_override():
        cure = f"write '{key.name}=[{text}]'" if key.kind in (Any, list) else "write one; tune.py scans several"
        raise ConfigError(key.name, text, "several values, and this key takes one", cure)
    value = override.value()
    if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
        raise ConfigError(key.name, text, "too large a number", f"write {key.name}=inf, or a smaller number")
    return value


def split_values(text: str) -> list[str]:
    """Split `value,value` at commas outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character in "([{") - (character in ")]}") if not quote else 0
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
