"""Expand log.to, the list of places that a run logs to, into the keys that it stands for."""

from collections.abc import Sequence

from models.errors import ConfigError

NAME = "log.to"
PLACES = ("wandb", "tensorboard")


def expand_log_to(arguments: Sequence[str]) -> list[str]:
    """Replace `log.to=[wandb,tensorboard]` by tensorboard= and wandb.mode=, of which a given wandb.mode stays.

    Raises ConfigError for another place, and for a key that contradicts the list.
    """
    given = [argument.partition("=")[::2] for argument in arguments]
    lists = [text for name, text in given if name == NAME]
    if not lists:
        return list(arguments)
    if len(lists) > 1:
        raise ConfigError(NAME, lists[1], f"given twice, first as {lists[0]}", f"write {NAME} once")
    text = lists[0].strip()
    if text.startswith("[") != text.endswith("]"):
        raise ConfigError(NAME, text, "a list of one bracket", f"write {NAME}=[{','.join(PLACES)}]")
    places = [place.strip(" '\"") for place in text.removeprefix("[").removesuffix("]").split(",")]
    chosen = set(places) - {"", "null"}
    if unknown := chosen - {*PLACES}:
        problem = f"{min(unknown)} is no place that runs log to"
        raise ConfigError(NAME, lists[0], problem, f"write {NAME}=[{','.join(PLACES)}], one of them, or []")
    rest = [argument for argument, (name, _) in zip(arguments, given, strict=True) if name != NAME]
    modes = [text for name, text in given if name == "wandb.mode"]
    if any(name == "tensorboard" for name, _ in given):
        raise ConfigError(NAME, lists[0], "tensorboard= says the same", "leave one of the two out")
    if modes and (modes[0] == "disabled") == ("wandb" in chosen):
        raise ConfigError(NAME, lists[0], f"wandb.mode={modes[0]} says the opposite", "leave one of the two out")
    if not modes:
        rest.append(f"wandb.mode={'offline' if 'wandb' in chosen else 'disabled'}")
    return [*rest, f"tensorboard={str('tensorboard' in chosen).lower()}"]
