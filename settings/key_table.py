"""List the keys of a dataclass of keys, and find one by its name."""

import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from cluster.config.renamed_keys import RENAMED
from models.errors import ConfigError

WEIGHTS = frozenset({
    "teacher", "base", "init", "vae", "text_encoder", "grpo.init", "grpo.critic", "reward.learned.clip",
    "reward.learned.hpsv3_weights", "reward.learned.videoalign_weights", "reward.vae",
})  # fmt: skip
"""Keys of a run that hold weights: a path, or a repository of the Hugging Face hub."""
PATHS = WEIGHTS | {
    "run_dir", "prompts", "text_cache", "prompt.cache", "reward.raft_weights", "ode.pairs_dir", "debug.windows",
    "reward.learned.hpsv3_python", "reward.learned.videoalign_python", "reward.learned.videoalign_code",
}  # fmt: skip
"""Keys of a run that hold paths: made absolute when read, and never split at commas."""
SEVERAL = frozenset({"lora", "lora_strength"})
"""Keys that take one value, or several in brackets."""

_LIKE, _LIKE_END = 0.65, 0.78
"""Least similarity of a whole name, and of the last part of a dotted one, to a mistyped name."""


@dataclass(frozen=True)
class Key:
    """Describes one key of a command."""

    name: str
    """Dotted."""
    hint: Any
    """Type of its value."""
    default: Any
    doc: str

    @property
    def kind(self) -> Any:
        """Return the type of a value that is not None."""
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


def keys_of(schema: Any, prefix: str = "") -> dict[str, Key]:
    """List every key of a dataclass, or of an instance with other defaults, by dotted name."""
    hints, keys = get_type_hints(schema if isinstance(schema, type) else type(schema)), {}
    for field in fields(schema):
        if isinstance(schema, type):  # it may have fields without a default, so no instance can be made
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
    """Find the choice that `text` most likely meant, by current or older names; None where none is close.

    Of dotted keys only those of the same group count: a wrong suggestion would change another network's rate.
    """
    names = {choice: choice for choice in choices} | {old: new for old, new in RENAMED.items() if new in choices}
    group, _, last = text.lower().rpartition(".")
    short = [choice for choice in choices if "." not in choice]
    if not group and (close := get_close_matches(text.lower(), short, 1, _LIKE)):
        return close[0]
    groups = {name.rpartition(".")[0] for name in names} - {""}
    if group not in groups:
        group = next(iter(get_close_matches(group, groups, 1, _LIKE)), group)
    ends: dict[str, set[str]] = {}
    for name, choice in names.items():
        if not group or name.startswith(f"{group}."):
            ends.setdefault(name.rpartition(".")[2], set()).add(choice)
    for end in get_close_matches(last, ends, 1, _LIKE_END):
        if len(ends[end]) == 1:
            return next(iter(ends[end]))
    return None


def find_key(name: str, text: str, keys: Mapping[str, Key], groups: Collection[str] = ()) -> Key:
    """Find a key, or an entry of a mapping, by its dotted name.

    Raises ConfigError for an unknown one, with the nearest key, or else the nearest of the `groups` of conf/.
    """
    name = RENAMED.get(name, name)
    if name in keys:
        return keys[name]
    for owner in keys.values():
        if name.startswith(f"{owner.name}.") and get_origin(owner.kind) is dict:
            return Key(name, get_args(owner.kind)[1], None, owner.doc)
    if any(other.startswith(f"{name}.") for other in keys):
        raise ConfigError(name, text, "a group of keys", f"write one of its keys; --help {name} lists them")
    same = [other for other in keys if other.rpartition(".")[2] == name]
    other = nearest(name, keys) or next(iter(get_close_matches(name, groups, 1, _LIKE)), None)
    if len(same) > 1:
        cure = f"write one of {', '.join(same)}"
    else:
        cure = f"write {other}={text}" if other else "choose one of the keys that --help all lists"
    raise ConfigError(name, text, "no such key", cure)
