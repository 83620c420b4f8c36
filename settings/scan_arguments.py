"""Plan the trials of tune.py from its command line, and check all of them before anything starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from cluster.config.renamed_keys import RENAMED
from cluster.config.run_config import Config
from cluster.config.scan_config import Scan, check_values
from cluster.tuning.trials import Trial
from models.errors import ConfigError
from settings.compose import choices, load, read_value, split
from settings.key_table import PATHS, find_key, keys_of

PRESET = "scan"


def plan(arguments: Sequence[str]) -> tuple[Scan, list[Trial]]:
    """Read the scan and its trials: all arms of the first seed, then of the next. Raises ConfigError."""
    single, over = _split(arguments)
    given = {split(argument)[0] for argument in single}
    # A trial is one process, whatever the preset's cluster, unless the command line names a cluster.
    common = single if given & {"cluster", "cluster.kind"} else [*single, "cluster=inline"]
    scan = load([*common, "stage=dmd" if "init" in given else "stage=ode"], PRESET, Scan)
    if over and "scan.over" in given:
        raise ConfigError(next(iter(over)), None, "scan.over is given too", "write all values into scan.over")
    if over:
        scan = replace(scan, scan=replace(scan.scan, over=over))
    if not scan.scan.over:
        raise ConfigError("scan.over", scan.scan.over, "no key is scanned", "write values, as in window=uniform,prefix")
    for key in (RENAMED.get(name, name) for name in scan.scan.over):
        # window holds window.law
        clash = sorted(name for name in given if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."))
        if clash:
            raise ConfigError(clash[0], None, f"{key} is scanned", f"leave {clash[0]} out, or take {key} off scan.over")
    for key in scan.scan.along:
        find_key(key, "", keys_of(Scan))
    arms = [dict(zip(scan.scan.over, values, strict=True)) for values in product(*scan.scan.over.values())]
    configs = [(arm, _config(scan, common, arm)) for arm in arms]
    trials = []
    for seed in scan.scan.seeds:
        for arm, config in configs:
            # Window laws name themselves: their key is left out of the title.
            title = ", ".join(f"{v}" if key in ("window", "window.law") else f"{key}={v}" for key, v in arm.items())
            folder = Path(scan.run_dir, "trials", re.sub(r"[^\w.=-]+", "_", title).strip("_"), f"seed_{seed}")
            trials.append(Trial(title, dict(arm), replace(config, seed=seed, run_dir=str(folder))))
    folders = [trial.config.run_dir for trial in trials]
    for trial in trials:
        if folders.count(trial.config.run_dir) > 1:
            problem = f"two trials share the folder {trial.config.run_dir}"
            raise ConfigError("scan.over", scan.scan.over, problem, "write values whose letters and digits differ")
    return scan, trials


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Split the arguments into those with one value and the lists of values of the others. Paths have one."""
    keys, groups = keys_of(Scan), choices()
    single, over = [], {}
    for argument in arguments:
        name, text = split(argument)
        if name == "stage":
            raise ConfigError(name, text, "trials run stage dmd, from one student of stage ode", "leave stage out")
        if name.startswith("debug."):
            raise ConfigError(name, text, "a trial runs both halves of stage dmd", f"leave {name} out, or use train.py")
        values = [text] if name in PATHS else _split_values(text)
        if len(values) == 1:
            single.append(argument)
            continue
        if name in {RENAMED.get(other, other) for other in over}:
            raise ConfigError(name, text, "the key is scanned twice", f"write all values into one {name}=")
        if name not in groups:
            key = find_key(name, text, keys, groups)
            values = [read_value(key, value) for value in values]
        check_values(name, values)
        over[argument.partition("=")[0]] = values  # as typed: it names the folders of trials
    return single, over


def _split_values(text: str) -> list[str]:
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


def _config(scan: Scan, common: Sequence[str], arm: Mapping[str, Any]) -> Config:
    """Compose the configuration that the trials of an arm share."""
    common = [*common, "stage=dmd"]
    if scan.init is None and "init" not in arm:
        common = [argument for argument in common if split(argument)[0] != "init"]  # init=null
        common.append(f"init={Path(scan.run_dir, 'ode', 'student.safetensors')}")
    config = load(common, PRESET, Scan, scanned=arm)
    along = []
    for key, arguments in scan.scan.along.items():
        value: Any = config
        for name in RENAMED.get(key, key).split("."):
            value = getattr(value, name)
        for choice, others in arguments.items():
            if str(value).replace(" ", "") == str(choice).replace(" ", ""):
                along += others
    if along:  # typed arguments override those that accompany a value
        typed = {split(argument)[0] for argument in common}
        along = [argument for argument in along if split(argument)[0] not in typed]
        config = load([*along, *common], PRESET, Scan, scanned=arm)
    return config.plain
