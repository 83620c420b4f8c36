"""From a command line in Hydra's syntax to a checked Config. The only file that knows Hydra."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from cluster.config import Config
from models.config import StudentConfig
from models.user_paths import user_path

ROOT = Path(__file__).resolve().parent
_REWARDS = "reward.terms="
_CALL = re.compile(r"^([\w.]+)=(\w+\([-+\w., ]*\))$")


def load(arguments: Sequence[str], preset: str = "tiny") -> Config:
    """The configuration that `arguments` (`key=value`) ask for. Raises ValueError, in
    one line with the key to change."""
    config = _made(arguments, preset)
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
    return _made(arguments, "tiny", "student")


def _made(arguments: Sequence[str], preset: str, part: str | None = None) -> Any:
    """The configuration, or one part of it, as the object that its class makes of it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    for argument in arguments:
        if "=" not in argument or argument.startswith(("+", "~", "-")):
            raise ValueError(f'"{argument}" cannot be read; write key=value, without + or ~; --help lists every key')
        choices = _choices().get(argument.partition("=")[0])
        if choices is not None and argument.partition("=")[2] not in choices:
            raise ValueError(f"{argument} is none of {', '.join(choices)}; --help lists every key")
    ConfigStore.instance().store(name="schema", node=Config)
    # Hydra would read beta(1, 2) as a call to a function of its own.
    overrides = [_CALL.sub(r"\1='\2'", argument) for argument in arguments]
    if not any(argument.startswith("preset=") for argument in arguments):
        overrides = [f"preset={preset}", *overrides]
    # Hydra would add to the default's rewards, and knows no others: who names rewards means these and no more.
    named = [override for override in overrides if override.startswith(_REWARDS)]
    overrides = [override for override in overrides if override not in named]
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose("config", overrides)
        for override in OverridesParser.create().parse_overrides(named):
            with open_dict(composed):
                OmegaConf.update(composed, override.key_or_group, override.value(), merge=False)
        return OmegaConf.to_object(composed if part is None else composed[part])
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_line(error)) from error


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


def explain(usage: str) -> str:
    """The text of --help."""
    lines = [usage, "", "Choices:"]
    lines += [f"  {group}={'|'.join(names)}" for group, names in _choices().items()]
    lines += ["", "Keys, with their defaults before a preset changes them:"]
    width = max(len(name) for name, _, _ in all_keys())
    lines += [f"  {name:<{width}}  {doc} [{_shown(default)}]" for name, default, doc in all_keys()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).replace("'", "")


def _choices() -> dict[str, list[str]]:
    """What `group=name` may name, by group."""
    groups = sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir())
    return {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in groups}


def answer_help(usage: str) -> None:
    """Print --help and leave. Called before torch is imported, so that the answer comes at once."""
    if "--help" in sys.argv[1:] or "-h" in sys.argv[1:]:
        print(explain(usage))
        sys.exit(0)


def run(loop: Callable, preset: str, fixed: Sequence[str] = ()) -> Config:
    """Entry of a root script: user mistakes in one line with exit status 2, everything else loud; returns what was run.

    `fixed` are keys that the script sets itself.
    """
    from cluster.errors import RunFailed
    from cluster.launch import launch, preflight
    from cluster.prompts import check_prompts, prepare_prompts

    name = Path(sys.argv[0]).name
    try:
        for argument in sys.argv[1:]:
            if argument.partition("=")[0] in fixed:
                raise ValueError(f"{argument}: this script sets that key itself; use train.py to choose it")
        config = load(sys.argv[1:], preset)
        if config.dry_run:
            from cluster.dry_run import report

            print(report(config))
            sys.exit(0)
        check_prompts(config)
        preflight(config)
        for line in prepare_prompts(config):
            print(line, file=sys.stderr)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        return launch(loop, config)
    except RunFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        saved = any(Path(config.run_dir).glob("*/checkpoints/step_*"))
        following = "goes on from the last checkpoint" if saved else "begins again: no checkpoint was reached"
        print(f"{name}: stopped; the same command {following} in {config.run_dir}", file=sys.stderr)
        sys.exit(130)
