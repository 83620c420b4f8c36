"""From the command line of tune.py to its trials, all of them checked before anything starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from cluster.config.run_config import Config
from cluster.config.scan_config import Scan, check_values
from cluster.tuning.trials import Trial, plain_config
from settings.compose import all_keys, load, values_of

PRESET = "scan"
_FIXED = {"stage": "trials run stage dmd, from one student of stage ode"}


def plan(arguments: Sequence[str]) -> tuple[Scan, list[Trial]]:
    """The scan that `arguments` ask for, and its trials: all arms of the first seed, then of the next.

    Raises ValueError in one line with the key to change.
    """
    single, over = _split(arguments)
    common = [*single, *_place(single)]
    scan = load([*common, "stage=ode" if _makes_student(single) else "stage=dmd"], PRESET, Scan)
    if over and any(argument.startswith("scan.over=") for argument in single):
        raise ValueError(f"{', '.join(over)} and scan.over are both given; write all values into scan.over")
    if over:
        scan = replace(scan, scan=replace(scan.scan, over=over))
    _check(scan, single)
    arms = [dict(zip(scan.scan.over, values, strict=True)) for values in product(*scan.scan.over.values())]
    configs = [(arm, _config(scan, common, arm)) for arm in arms]
    trials = [_trial(scan, arm, config, seed) for seed in scan.scan.seeds for arm, config in configs]
    _check_names(trials)
    return scan, trials


def _place(single: Sequence[str]) -> list[str]:
    """A trial is one process, whatever the preset says of a run, unless a cluster is asked for."""
    asked = any(argument.startswith(("cluster=", "cluster.kind=")) for argument in single)
    return [] if asked else ["cluster=inline"]


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """The arguments with one value, and the values of the others by key."""
    single, over = [], {}
    for argument in arguments:
        key = argument.partition("=")[0]
        if key in _FIXED:
            raise ValueError(f"{argument}: {_FIXED[key]}; leave it out")
        if "=" not in argument or (values := values_of(argument)) is None:
            single.append(argument)
        elif key in over:
            raise ValueError(f"{key} is given twice; write all its values into one")
        else:
            check_values(key, values)
            over[key] = values
    return single, over


def _check(scan: Scan, single: Sequence[str]) -> None:
    if not scan.scan.over:
        raise ValueError("nothing is scanned; name keys and their values, as in window=uniform,prefix, or scan.over")
    given = {argument.partition("=")[0] for argument in single}
    for key in scan.scan.over:
        if clash := sorted(name for name in given if name == key or _same_place(name, key)):
            raise ValueError(f"{clash[0]} is given, and {key} is scanned; leave one of them out (see scan.over)")
    known = {name for name, _, _ in all_keys(Scan)}
    for key in scan.scan.along:
        if key not in known:
            raise ValueError(f"scan.along names {key}, and there is no such key; --help lists every key")


def _same_place(one: str, other: str) -> bool:
    """Whether one key is the part of the configuration that the other is in: window and window.law."""
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _config(scan: Scan, common: Sequence[str], arm: Mapping[str, Any]) -> Config:
    """What the trials of an arm have in common."""
    own = [f"{key}={_written(value)}" for key, value in arm.items()] + ["stage=dmd"]
    if scan.init is None and "init" not in arm:
        own.append(f"init={_written(str(Path(scan.run_dir, 'ode', 'student.safetensors')))}")
    loaded = load([*common, *own], PRESET, Scan)
    if along := _along(scan, loaded):  # the last one counts: it is less than what was typed
        loaded = load([*along, *common, *own], PRESET, Scan)
    return plain_config(loaded)


def _trial(scan: Scan, arm: Mapping[str, Any], config: Config, seed: int) -> Trial:
    folder = Path(scan.run_dir, "trials", _slug(_title(arm)), f"seed_{seed}")
    return Trial(_title(arm), dict(arm), replace(config, seed=seed, run_dir=str(folder)))


def _along(scan: Scan, loaded: Scan) -> list[str]:
    """What goes along with the values that a trial has, however they were named: window=prefix is prefix(1)."""
    found = []
    for key, choices in scan.scan.along.items():
        value: Any = loaded
        for name in key.split("."):
            value = getattr(value, name)
        for choice, arguments in choices.items():
            if str(value).replace(" ", "") == str(choice).replace(" ", ""):
                found += arguments
    return found


def _makes_student(single: Sequence[str]) -> bool:
    return not any(argument.startswith("init=") for argument in single)


def _title(arm: Mapping[str, Any]) -> str:
    """The values alone where there is one key, or the key says no more than they do."""
    named = [f"{value}" if key in ("window", "window.law") else f"{key}={value}" for key, value in arm.items()]
    return ", ".join(named)


def _slug(title: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", title).strip("_")


def _written(value: Any) -> str:
    """As Hydra reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(_written(part) for part in value)}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


def _check_names(trials: Sequence[Trial]) -> None:
    folders = [trial.config.run_dir for trial in trials]
    for trial in trials:
        if folders.count(trial.config.run_dir) > 1:
            raise ValueError(f"two trials would share the folder {trial.config.run_dir}; write their values otherwise")
