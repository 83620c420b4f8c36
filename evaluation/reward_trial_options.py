"""The command line of `python -m rewards.try`. Imports no torch, so that help and mistakes are answered at once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from models.command_line import read_value
from models.keys import key
from rewards.reward_config import RewardConfig

_PREFIX = "reward."


@dataclass(kw_only=True)
class TrialOptions:
    """What is scored, and where the pictures go."""

    videos: str | None = key(None, "folder of videos (mp4, ..., or safetensors with `video` uint8 [B T 3 H W])")
    out: str | None = key(None, "folder of the pictures of the flow; without it they lie beside the videos")
    clips: bool = key(False, "score the adversarial clips too: what a reward of smoothness must not like")


def parse(arguments: Sequence[str]) -> tuple[TrialOptions, RewardConfig]:
    """Read `key=value` arguments. Raises ValueError, in one line, for one that cannot be read."""
    options: dict[str, Any] = {}
    keys: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ValueError(f'"{argument}" cannot be read; write key=value; --help lists every key')
        group, values = (RewardConfig, keys) if name.startswith(_PREFIX) else (TrialOptions, options)
        field = name.removeprefix(_PREFIX)
        hints = get_type_hints(group)
        if field.startswith("terms."):
            reward = field.removeprefix("terms.")
            raise ValueError(f"{argument} cannot be read; write reward.terms={{{reward}: {text or 1}}}")
        if field not in hints:
            raise ValueError(f"there is no key {name}; --help lists every key")
        hint = hints[field]
        values[field] = _terms(name, text) if get_origin(hint) is dict else read_value(name, text, hint)
    chosen = TrialOptions(**options)
    if not chosen.videos and not chosen.clips:
        raise ValueError("nothing to score; give videos=FOLDER, or clips=true")
    if chosen.out is not None and Path(chosen.out).exists() and not Path(chosen.out).is_dir():
        raise ValueError(f"out={chosen.out} is a file; give a folder for the pictures of the flow")
    return chosen, RewardConfig(**keys)


def _terms(name: str, text: str) -> dict[str, float]:
    """{reward: weight, reward: weight}"""
    terms = {}
    for term in filter(None, text.strip().removeprefix("{").removesuffix("}").split(",")):
        reward, _, weight = (part.strip() for part in term.partition(":"))
        try:
            terms[reward] = float(weight)
        except ValueError as error:
            raise ValueError(f"{name}={text} cannot be read; write {{reward: weight, reward: weight}}") from error
    return terms


def _lines(group: type, prefix: str) -> list[str]:
    instance = group()
    known = [(f"{prefix}{field.name}", field.metadata["doc"], getattr(instance, field.name)) for field in fields(group)]
    return [f"  {name:<26}{doc} [{'none' if default is None else default}]" for name, doc, default in known]


USAGE = "\n".join(
    [
        "python -m rewards.try videos=FOLDER [out=FOLDER] [clips=true] [reward.key=value ...]",
        "",
        "Scores every video of a folder with every reward, window by window against its own first window, and draws",
        "its optical flow. Prompts, for rewards that read them: NAME.txt beside a video, one a line. All rewards are",
        "shown; reward.terms adds your own, by dotted path, and the remote one. Who cannot tell is said below.",
        "  python -m rewards.try clips=true                      what must score low does",
        "  python -m rewards.try videos=runs/demo/uniform reward.upsample=4 reward.finest_scale=0    the tiny world",
        "",
        *_lines(TrialOptions, ""),
        *_lines(RewardConfig, _PREFIX),
    ]
)
