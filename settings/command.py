"""Run a command: help, arguments, errors in one line, exit statuses."""

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from cluster.config.run_config import Config
from cluster.run_errors import CannotStart
from models.checkpoints.hub import names_hub, weights_path
from models.errors import ConfigError, StopsRun
from settings.compose import ROOT, choices, read_keys
from settings.help import asked_help, help_page
from settings.key_table import WEIGHTS

Options = TypeVar("Options")
C = TypeVar("C", bound=Config)


def command(
    main: Callable[[Options], int | None],
    schema: type,
    usage: str,
    reader: Callable[[Sequence[str]], Options] | None = None,
    groups: Collection[str] | None = (),
) -> None:
    """Read the command line, call `main` with its values, and exit with the status that it returns."""
    try:
        options = arguments(schema, usage, reader, groups)
        with user_errors():
            status = main(options)
    except StopsRun as error:
        status = _complain(error, error.status)
    except KeyboardInterrupt as error:  # by Ctrl-C, or by another signal whose number it carries
        status = _complain("stopped", 128 + (error.args[0] if error.args else signal.SIGINT))
    sys.exit(status)


def arguments(
    schema: Any,
    usage: str,
    reader: Callable[[Sequence[str]], Options] | None = None,
    groups: Collection[str] | None = None,
    fixed: Collection[str] = (),
) -> Options:
    """Read the command line with `reader`; answer --help, or a mistake in one line, and exit.

    `schema` is a dataclass of keys, with a reader also an instance with defaults of the command's own. `groups` are
    those of conf/ that the command takes: all of them where it trains. Help leaves out the keys and groups in `fixed`,
    which the command sets itself.
    """
    given = sys.argv[1:]
    with user_errors():
        topic = asked_help(given)
        if topic is not None:
            groups_shown = {group: names for group, names in choices().items() if groups is None or group in groups}
            print(help_page(usage, schema, groups_shown, topic, fixed))
        else:
            return reader(given) if reader else read_keys(given, schema)
    sys.exit(0)


def with_weights(config: C) -> C:
    """Download the weights that `config` takes from the hub; returns it with their paths. Raises ConfigError.

    Only the start of a run may call this: a plan or a dry run downloads nothing.
    """
    for name in sorted(WEIGHTS):
        given = attrgetter(name)(config)
        if given is not None and names_hub(given, name):
            config = _replaced(config, name.split("."), str(weights_path(given, name).absolute()))
    return config


def _replaced(config: Any, steps: Sequence[str], value: str) -> Any:
    """Copy nested dataclasses with another value of one key, whose dotted name has these `steps`."""
    first, *rest = steps
    return replace(config, **{first: _replaced(getattr(config, first), rest, value) if rest else value})


def prepare_run(config: C, on_ray: bool) -> C:
    """Check that a run can start, claim its folder, and prepare its prompts; returns it with the paths of weights.

    A run `on_ray` reaches its cluster before weights of the hub are downloaded and the folder is claimed. Raises
    ConfigError or CannotStart.
    """
    from cluster.launch import preflight, reach
    from cluster.runs.stage_spec import inputs_of

    if on_ray:
        reach(config.cluster)
    config = with_weights(config)
    preflight(config)
    for line in inputs_of(config).prompts.prepare():
        print(line, file=sys.stderr)
    return config


def run_loop(loop: Callable, config: Config) -> Config:
    """Run `loop(config, cluster, log)`, or print the plan for dry_run; returns the configuration that ran."""
    with user_errors():
        if config.dry_run:
            from cluster.bootstrap.upload import upload_lines
            from cluster.launch import rehearse
            from reports.dry_run import dry_run_text

            cluster, refusals = config.cluster, rehearse(config)
            upload = upload_lines(ROOT, cluster.elsewhere) if cluster.kind == "ray" else []
            print(dry_run_text(config, upload, refusals), flush=True)
            sys.exit(0)
        config = prepare_run(config, on_ray=config.cluster.kind == "ray")
    from cluster.launch import launch

    with run_errors(config.run_dir):
        return launch(loop, config)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the command in one line: status 2 for a user's mistake, 0 for a closed pipe (`| head`)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again as it ends
        sys.exit(0)
    except (ConfigError, CannotStart) as error:
        sys.exit(_complain(error, 2))


@contextmanager
def run_errors(run_dir: str) -> Iterator[None]:
    """End the command in one line: with status 1 for a run that stops itself, 130 for Ctrl-C, 143 for SIGTERM."""
    numbers = [signal.SIGINT]

    def stop(number: int, _: object) -> None:  # in the way of Ctrl-C, which Ray Train and Tune handle themselves
        numbers.append(signal.Signals(number))
        if not callable(signal.getsignal(signal.SIGINT)):  # a shell ignores it for a command behind &
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    # nohup ignores SIGHUP.
    ours = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    except StopsRun as error:
        sys.exit(_complain(error, error.status))
    except KeyboardInterrupt:
        saved = any(Path(run_dir).rglob("checkpoints/step_*"))
        following = "continues from the last checkpoint" if saved else "starts over: there is no checkpoint yet"
        sys.exit(_complain(f"stopped; the same command {following} in {run_dir}", 128 + numbers[-1]))
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _complain(reason: Any, status: int) -> int:
    path = Path(sys.argv[0]).resolve()  # of a module: python -m rewards.try
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    print(f"{name.removesuffix('.py').replace('/', '.') if '/' in name else name}: {reason}", file=sys.stderr)
    return status
