"""From a command line in Hydra's syntax to a checked Config. The only file that knows Hydra."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.config.run_config import Config
from cluster.errors import CannotStart
from models import terminal
from models.errors import StopsRun
from models.network_config import StudentConfig
from models.user_paths import user_path

C = TypeVar("C", bound=Config)
ROOT = Path(__file__).resolve().parent.parent
_WHOLE = (
    "reward.terms=", "cluster.learner_labels=", "cluster.rollout_labels=", "cluster.rollout_prefers=", "scan.over=",
    "scan.along=",
)  # fmt: skip
_CALL = re.compile(r"(?<=[=,:\[{])(\s*)(\w+\([-+\w., ]*\))(?=\s*(?:[,\]}]|$))")


def load(arguments: Sequence[str], preset: str = "tiny", schema: type[C] = Config) -> C:
    """The configuration that `arguments` (`key=value`) ask for, checked. Raises ValueError, in one line with the key
    to change."""
    config = _made(arguments, preset, schema)
    for owner, prefix, names in (
        (config, "", ("run_dir", "teacher", "base", "init", "prompts", "vae", "text_encoder", "text_cache")),
        (config.grpo, "grpo.", ("init", "critic")),
        (config.prompt, "prompt.", ("cache",)),
        (config.reward, "reward.", ("raft_weights",)),
        (config.ode, "ode.", ("pairs_dir",)),
        (config.debug, "debug.", ("windows",)),
    ):
        for name in names:
            if getattr(owner, name) is not None:
                setattr(owner, name, str(_absolute(getattr(owner, name), prefix + name)))
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and Path(config.run_dir).is_relative_to(Path.cwd()):
        print(
            f"warning: run_dir={config.run_dir} lies in this job's own copy of the code and is deleted with it; give "
            "an absolute path on storage that all nodes share",
            file=sys.stderr,
        )
    return config


def load_student(arguments: Sequence[str]) -> StudentConfig:
    """The student's shape alone: what training asks of a configuration does not concern who only uses one."""
    return _made(arguments, "tiny", Config, "student")


def _made(arguments: Sequence[str], preset: str, schema: type, part: str | None = None) -> Any:
    """The configuration, or one part of it, as the object that its class makes of it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    parsed = [_checked(argument) for argument in arguments]
    ConfigStore.instance().store(name="schema", node=schema)
    overrides = [_quoted(argument) for argument in arguments]
    if not any(argument.startswith("preset=") for argument in arguments):
        overrides = [f"preset={preset}", *overrides]
    # Hydra would add to the mapping that is there: who names rewards or labels means these and no more.
    named = [override for override in parsed if override.input_line.startswith(_WHOLE)]
    overrides = [override for override in overrides if not override.startswith(_WHOLE)]
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose("config", overrides)
        for override in named:
            if not isinstance(override.value(), dict):
                raise ValueError(f"{override.input_line} is no mapping; write {override.key_or_group}={{name: value}}")
            with open_dict(composed):
                OmegaConf.update(composed, override.key_or_group, override.value(), merge=False)
        return OmegaConf.to_object(composed if part is None else composed[part])
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_line(error)) from error


def _checked(argument: str) -> Any:
    """Hydra's override of an argument that has one value. Raises ValueError in one line with the cure."""
    if "=" not in argument or argument.startswith(("+", "~", "-")):
        raise ValueError(f'"{argument}" cannot be read; write key=value, without + or ~; --help lists every key')
    if argument.endswith("="):
        raise ValueError(f"{argument} has no value; write {argument}VALUE, or leave it out")
    group, _, name = (part.strip("'\"") for part in argument.partition("="))
    names = choices().get(group)
    if names is not None and name not in names:
        raise ValueError(f"{group}={name} is none of {', '.join(names)}; --help lists every key")
    override = _parsed(argument)
    if override.is_sweep_override():
        values = argument.partition("=")[2]
        raise ValueError(f"{argument} has several values; write '{group}=[{values}]' (tune.py trains each of them)")
    return override


def values_of(argument: str) -> list[Any] | None:
    """The values of `key=value,value`; None for an argument with one value. Raises ValueError."""
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString

    override = _parsed(argument)
    if not override.is_sweep_override():
        return None
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep):
        raise ValueError(f'"{argument}" is no list of values; write them out, as in {override.key_or_group}=1,2')
    return [value.text if isinstance(value, QuotedString) else value for value in sweep.list]


def _parsed(argument: str) -> Any:
    """Hydra's override. Raises ValueError with the whole argument, of which Hydra's own message has a part."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(_quoted(argument))
    except HydraException as error:
        raise ValueError(
            f'"{argument}" cannot be read; write key=value, a list as [1,2], a mapping as {{role: learner}}, and '
            "quote them for the shell; --help lists every key"
        ) from error


def _quoted(argument: str) -> str:
    """Hydra would read beta(1, 2) as a call to a function of its own."""
    return _CALL.sub(r"\1'\2'", argument)


def _absolute(path: str, key: str) -> Path:
    """Relative to where the command was given; shipped assets are found from anywhere."""
    here = user_path(path, key)
    shipped = ROOT / path
    return shipped if path.startswith("assets/") and not here.exists() else here.absolute()


def _one_line(error: Exception) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    text = re.split(
        r"full_key:|object_type=|Set the environment variable|To append to your config|Config search path", text
    )[0].strip(" .")
    if key := getattr(error, "full_key", None):
        text = f"{key}: {text}"
    cause = " ".join(str(error.__cause__ or "").split())
    cause = re.split(r"full_key:|object_type=", cause)[0].strip(" .")
    return (
        f"{text} ({cause}); --help lists every key"
        if cause and cause not in text
        else f"{text}; --help lists every key"
    )


def all_keys(config: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key: (dotted name, default, documentation)."""
    instance = config() if isinstance(config, type) else config
    for field in fields(instance):
        value = getattr(instance, field.name)
        if is_dataclass(value):
            yield from all_keys(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, field.metadata["doc"]


def explain(usage: str, schema: type[Config] = Config) -> str:
    """The text of --help."""
    lines = [usage, "", "Choices:"]
    lines += [f"  {group}={'|'.join(names)}" for group, names in choices().items()]
    lines += ["", "Keys, with their defaults before a preset changes them:"]
    width = max(len(name) for name, _, _ in all_keys(schema))
    lines += [f"  {name:<{width}}  {doc} [{_shown(default)}]" for name, default, doc in all_keys(schema)]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).replace("'", "")


def choices() -> dict[str, list[str]]:
    """What `group=name` may name, by group."""
    groups = sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir())
    return {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in groups}


def answer_help(usage: str, schema: type[Config] = Config) -> None:
    """Print --help, with every key, and leave, where it is asked for."""
    terminal.answer_help(lambda: explain(usage, schema))


def run(loop: Callable, preset: str, fixed: Sequence[str] = ()) -> Config:
    """Entry of a root script: user mistakes in one line with exit status 2, everything else loud; returns what was run.

    `fixed` are keys that the script sets itself.
    """
    from cluster.launch import launch, preflight, reach
    from cluster.runs.run_prompts import check_prompts, prepare_prompts

    with refusing():
        for argument in sys.argv[1:]:
            if argument.partition("=")[0] in fixed:
                raise ValueError(f"{argument}: this script sets that key itself; use train.py to choose it")
        config = load(sys.argv[1:], preset)
        if config.dry_run:
            from cluster.planning.dry_run import report

            print(report(config), flush=True)
            sys.exit(0)
        check_prompts(config)
        if config.cluster.kind == "ray":
            reach(config)
        preflight(config)
        for line in prepare_prompts(config):
            print(line, file=sys.stderr)
    with stopping(config.run_dir):
        return launch(loop, config)


@contextmanager
def refusing() -> Iterator[None]:
    """What is wrong with a command line is said in one line, and ends the script with status 2."""
    try:
        with terminal.readable_in_part():
            yield
    except (ValueError, CannotStart) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def stopping(run_dir: str) -> Iterator[None]:
    """A run that stops itself ends the script with status 1, Ctrl-C with 130: in one line, with what comes next."""
    name = Path(sys.argv[0]).name
    try:
        yield
    except StopsRun as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        saved = any(Path(run_dir).rglob("checkpoints/step_*"))
        following = "goes on from the last checkpoint" if saved else "begins again: no checkpoint was reached"
        print(f"{name}: stopped; the same command {following} in {run_dir}", file=sys.stderr)
        sys.exit(130)
