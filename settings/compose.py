"""Make the configuration of a command from its arguments and the presets in conf/."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.config.renamed_keys import RENAMED, with_current_names
from cluster.config.run_config import Config
from models.errors import ConfigError
from models.user_paths import user_path
from settings.parse import PATHS, Given, check_choice, find_key, keys_of, parse

S = TypeVar("S")
C = TypeVar("C", bound=Config)
ROOT = Path(__file__).resolve().parent.parent


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
    plain = _fill(schema, _compose(schema, {"preset": preset} | given.choices), given)
    for name in PATHS:
        owner, _, last = name.rpartition(".")
        part = plain[owner] if owner else plain
        if part[last] is not None:
            path = user_path(part[last], name)
            shipped = ROOT / part[last] if part[last].startswith("assets/") and not path.exists() else path
            part[last] = str(shipped.absolute())
    config = _build(schema, plain)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and Path(config.run_dir).is_relative_to(Path.cwd()):
        print(
            f"warning: run_dir={config.run_dir} lies in this job's own copy of the code and is deleted with it; give "
            "an absolute path on storage that all nodes share",
            file=sys.stderr,
        )
    return config


def read_keys(arguments: Sequence[str], schema: type[S], part: str | None = None) -> S:
    """Read the keys of a command that trains nothing; `preset=` fills the group `part`. Raises ConfigError."""
    from omegaconf import OmegaConf

    given = parse(arguments, keys_of(schema), {} if part is None else {"preset": choices()["preset"]})
    base = OmegaConf.structured(schema)
    if part is not None:
        base[part] = _compose(Config, {"preset": "tiny"} | given.choices)[part]
    return _build(schema, _fill(schema, base, given))


def _compose(schema: type, chosen: Mapping[str, str]) -> Any:
    """Compose the defaults of `schema` and the chosen files of conf/ into a typed mapping."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node={})  # typed below, where older names of keys are known
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose("config", [f"{group}={name}" for group, name in chosen.items()])
        plain = with_current_names(OmegaConf.to_container(composed))
        return OmegaConf.merge(OmegaConf.structured(schema), plain)
    except (HydraException, OmegaConfBaseException) as error:
        reason = next(line.strip() for line in str(error).splitlines() if not line.startswith("In '"))
        raise ConfigError("preset", chosen["preset"], reason, "choose a preset whose keys this command has") from error


def _fill(schema: type, composed: Any, given: Given) -> dict[str, Any]:
    """Put the given values into a composed mapping and return it as plain data. Raises ConfigError."""
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    keys, texts = keys_of(schema), {}
    for name, value in given.values.items():
        key = find_key(name, given.texts.get(name, str(value)), keys)
        if key.kind is str and name in keys:
            texts[name] = None if value is None else str(value)  # set below: OmegaConf would expand ${ in it
            continue
        written = given.texts.get(name, value)
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
        owner, _, last = name.rpartition(".")
        part = plain
        for step in filter(None, owner.split(".")):
            part = part[step]
        part[last] = value
    return plain


def _build(schema: type[S], plain: Mapping[str, Any]) -> S:
    """Make an object of `schema`, innermost parts first; each checks its own values."""
    made = {}
    for field in fields(schema):
        value = plain[field.name]
        made[field.name] = _build(field.type, value) if is_dataclass(field.type) else value
    return schema(**made)
