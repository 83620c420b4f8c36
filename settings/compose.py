"""Make the configuration of a command from its `key=value` arguments and the presets in conf/."""

import math
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

from cluster.config.renamed_keys import RENAMED, with_current_names
from cluster.config.run_config import Config
from models.checkpoints.hub import names_hub, snapshot_of
from models.errors import ConfigError
from models.user_paths import user_path
from models.worlds.world_config import TINY_PREFIX
from settings.key_table import PATHS, SEVERAL, WEIGHTS, Key, find_key, keys_of, nearest
from settings.log_to import expand_log_to

S = TypeVar("S")
C = TypeVar("C", bound=Config)
ROOT = Path(__file__).resolve().parent.parent
_CALL = re.compile(r"(?<=[=,:\[{])(\s*)(\w+\([-+\w., ]*\))(?=\s*(?:[,\]}]|$))")
"""Window laws such as beta(1, 2), which Hydra would read as calls to functions of its own."""


@dataclass(frozen=True)
class Given:
    """Holds the parsed arguments of a command."""

    choices: dict[str, str]
    """Choice by group of conf/."""
    values: dict[str, Any]
    """Value by dotted key."""
    texts: dict[str, str]
    """The values as typed."""


def choices() -> dict[str, list[str]]:
    """List the names that `group=name` takes, by group of conf/."""
    groups = sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir())
    return {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in groups}


def load(
    arguments: Sequence[str],
    preset: str = "tiny",
    schema: type[C] = Config,
    fixed: Collection[str] = (),
    scanned: Mapping[str, Any] | None = None,
) -> C:
    """Compose a preset and `arguments` into the checked configuration of a run, its paths absolute.

    `fixed` are keys that the command sets itself; `scanned` holds values of one arm of a scan, by key. Raises
    ConfigError.
    """
    keys, groups = keys_of(schema), choices()
    given = parse(arguments, keys, groups)
    for name, text in (given.choices | given.texts).items():
        if name in fixed:
            raise ConfigError(name, text, "this command sets the key itself", f"leave {name} out, or use train.py")
    for typed, value in (scanned or {}).items():
        name = RENAMED.get(typed, typed)
        if name in groups:
            given.choices[name] = check_choice(name, str(value), groups[name])
        else:
            find_key(name, str(value), keys)
            given.values[name] = value
    chosen = {"preset": preset} | given.choices
    plain = _fill(schema, deepcopy(_compose(schema, tuple(chosen.items()))), given)
    for name in PATHS:
        *owners, last = name.split(".")
        part = reduce(getitem, owners, plain)
        if part[last] is not None:
            if last == "vae":
                part[last] = part[last].removeprefix(TINY_PREFIX)
            if name in WEIGHTS and names_hub(part[last], name):  # downloaded as the run starts: see prepare_run
                continue
            path = user_path(part[last], name)
            if part[last].startswith("assets/") and not path.exists():
                path = ROOT / part[last]
            elif name in WEIGHTS:
                path = snapshot_of(path)
            part[last] = str(path.absolute())
    config = _build(schema, plain)
    if "teacher" in given.texts and "teacher" in config.stages:
        problem = "stage teacher trains the teacher of this run"
        raise ConfigError("teacher", given.texts["teacher"], problem, "leave teacher out, or stage teacher")
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and Path(config.run_dir).is_relative_to(Path.cwd()):
        print(
            f"warning: run_dir={config.run_dir} lies in this job's own copy of the code and is deleted with it; give "
            "an absolute path on storage that all nodes share",
            file=sys.stderr,
        )
    return config


def read_keys(
    arguments: Sequence[str], schema: type[S], part: str | None = None, recorded: Mapping[str, Any] | None = None
) -> S:
    """Read the keys of a command that trains nothing; `preset=` fills the group `part`. Raises ConfigError.

    `recorded` holds values, by key, that hold where the command line gives none.
    """
    keys = keys_of(schema)
    given = parse(arguments, keys, {} if part is None else {"preset": choices()["preset"]})
    for name, value in (recorded or {}).items():
        if find_key(name, str(value), keys).kind is str and not isinstance(value, str | None):
            raise ConfigError(name, value, "no text, as the record has it", f"write {name}=VALUE, or repair the record")
    given.values.update((recorded or {}) | given.values)
    base = deepcopy(_compose(schema))
    if part is not None:
        chosen = {"preset": "tiny"} | given.choices
        base[part] = _compose(Config, tuple(chosen.items()))[part]
    return _build(schema, _fill(schema, base, given))


def parse(arguments: Sequence[str], keys: Mapping[str, Key], groups: Mapping[str, Sequence[str]]) -> Given:
    """Read `key=value` arguments. Raises ConfigError, for a key that is given twice too.

    Text is taken as typed, but for one pair of quotes around all of it, which the text null needs; other values follow
    Hydra's grammar.
    """
    given = Given({}, {}, {})
    for argument in expand_log_to(arguments) if "wandb.mode" in keys else arguments:
        name, text = split(argument)
        if name in (earlier := given.choices | given.texts):
            both = f"'{name}=[{','.join(one.strip('[]') for one in (earlier[name], text))}]'"
            cure = f"write {both} for both" if name in SEVERAL else f"write {name} once"
            raise ConfigError(name, text, f"given twice, first as {earlier[name]}", cure)
        if name in groups:
            given.choices[name] = check_choice(name, text.strip("'\""), groups[name])
        else:
            key = find_key(name, text, keys, groups)
            given.values[name], given.texts[name] = read_value(key, text), text
    return given


def split(argument: str) -> tuple[str, str]:
    """Take `key=value` apart at the first equals sign. Raises ConfigError."""
    name, equals, text = argument.partition("=")
    if not re.fullmatch(r"\w+", name.split(".")[0]) or not equals:
        problem = "no argument of the form key=value"
        bare = argument.lstrip("-+~")
        cure = f"write {bare}" if re.fullmatch(r"[\w.]+=.+", bare) else "write key=value; --help lists the keys"
        raise ConfigError(name or "KEY", text or None, problem, cure)
    name = RENAMED.get(name, name)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # by which Python stands in for other bytes
        cure = "rename the file, or set LC_ALL=C.UTF-8"
        raise ConfigError(name, text, "bytes that are no UTF-8 text", cure)
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
    close = nearest(re.sub(r"[-. ]", "_", name), names)
    raise ConfigError(group, name, f"none of {others}", f"write {group}={close}" if close else "write one of them")


def read_value(key: Key, text: str) -> Any:
    """Read the text of a value by the type of its key. Raises ConfigError."""
    if key.kind is str:
        if text.lower() == "null":
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
        raise ConfigError(key.name, text, "too large a number", "write a smaller number")
    return value


@cache
def _compose(schema: type, chosen: tuple[tuple[str, str], ...] = ()) -> Any:
    """Compose the defaults of `schema` and the chosen files of conf/, by group, into a typed mapping.

    Every call gets the same object, so callers copy it: Hydra takes a tenth of a second, and a scan composes for each
    of its trials.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not chosen:
        return OmegaConf.structured(schema)
    ConfigStore.instance().store(name="schema", node={})  # typed below, where older names of keys are known
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose("config", [f"{group}={name}" for group, name in chosen])
        plain = with_current_names(OmegaConf.to_container(composed))
        return OmegaConf.merge(_compose(schema), plain)
    except (HydraException, OmegaConfBaseException) as error:
        reason = next(line.strip() for line in str(error).splitlines() if not line.startswith("In '"))
        raise ConfigError(
            "preset", dict(chosen)["preset"], reason, "choose a preset whose keys this command has"
        ) from error


def _fill(schema: type, composed: Any, given: Given) -> dict[str, Any]:
    """Put the given values into a composed mapping and return it as plain data. Raises ConfigError."""
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    keys, texts = keys_of(schema), {}
    for name, value in given.values.items():
        key = find_key(name, given.texts.get(name, str(value)), keys)
        written = given.texts.get(name, value)
        if value is None and key.hint is key.kind and (key.hint is not Any or key.default is not None):
            problem = f"not {key.expected}"
            raise ConfigError(name, "null", problem, f"write {name}=VALUE, or leave {name} out")
        if key.kind is str and name in keys:
            texts[name] = None if value is None else str(value)  # set below: OmegaConf would expand ${ in it
            continue
        if name not in keys:  # an entry of a mapping
            owner = next(other for other in keys if name.startswith(f"{other}."))
            entry = name.removeprefix(f"{owner}.")
            if entry not in OmegaConf.select(composed, owner):
                raise ConfigError(name, written, "no entry of this mapping", f"write '{owner}={{{entry}: {written}}}'")
            name, value = owner, {**OmegaConf.select(composed, owner), entry: value}
        try:
            with open_dict(composed):  # a mapping replaces the one of the preset
                OmegaConf.update(composed, name, value, merge=False)
        except OmegaConfBaseException as error:
            problem, fault = f"not {key.expected}", error.full_key or name
            if fault != name:
                problem = f"{fault}: {str(error).splitlines()[0]}"
            raise ConfigError(key.name, written, problem, f"write {key.name} as {key.expected}") from error
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(error.full_key, None, str(error).splitlines()[0], "write the value out") from error
    for name, value in texts.items():
        *owners, last = name.split(".")
        reduce(getitem, owners, plain)[last] = value
    return plain


def _build(schema: type[S], plain: Mapping[str, Any]) -> S:
    """Make an object of `schema`, innermost parts first; each checks its own values."""
    parts = {}
    for field in fields(schema):
        value = plain[field.name]
        parts[field.name] = _build(field.type, value) if is_dataclass(field.type) else value
    return schema(**parts)
