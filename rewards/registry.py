"""Rewards by name. A reward's module is imported when it is made: checking a name costs no import of torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards.reward import Reward
    from rewards.reward_config import RewardConfig

SHIPPED = {
    "continuity": "rewards.continuity.Continuity",
    "flow_continuity": "rewards.flow_continuity.FlowContinuity",
    "exposure_drift": "rewards.drift.ExposureDrift",
    "sharpness_drift": "rewards.drift.SharpnessDrift",
    "no_cut": "rewards.cut.NoCut",
    "dynamic_degree": "rewards.dynamic_degree.DynamicDegree",
    "tiny_judge": "rewards.tiny.TinyJudge",
    "tiny_motion": "rewards.tiny.TinyMotion",
    "text_alignment": "rewards.tiny.TextAlignment",
    "remote": "rewards.remote.Remote",
}
"""Names of rewards and where their factories live: callables of a RewardConfig."""


_TINY_WORLD = "rewards.tiny."


def knows_only_the_tiny_world(name: str) -> bool:
    """Whether the reward of that name or dotted path judges frames and prompts of the tiny world, and no others."""
    return SHIPPED.get(name, name).startswith(_TINY_WORLD)


def check_name(name: str, key: str = "reward.terms") -> None:
    """Refuse, under the name of its key, what is neither a shipped reward nor a dotted path; imports nothing."""
    parts = name.split(".")
    if name not in SHIPPED and (len(parts) < 2 or not all(part.isidentifier() for part in parts)):
        raise ValueError(
            f'no reward is called "{name}"; {key} takes {", ".join(SHIPPED)}, or the dotted path of your own '
            "(my_package.my_module.MyReward)"
        )


def make_reward(name: str, config: RewardConfig) -> Reward:
    """The reward of that name or dotted path. Raises ValueError, in one line, where there is none."""
    from rewards.reward import NEEDS, SCOPES

    check_name(name)
    module, _, attribute = SHIPPED.get(name, name).rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # somebody else's code, before anything has started
        raise ValueError(f"reward.terms: {name} cannot be imported ({_said(error)}); check it, and its path") from error
    if not callable(factory):
        raise ValueError(f"reward.terms: {name} is {type(factory).__name__}; it must be a callable of a RewardConfig")
    try:
        reward = factory(config)
    except TypeError as error:
        raise ValueError(
            f"reward.terms: {name} is no factory of a reward ({_said(error)}); see rewards/reward.py"
        ) from error
    except (Exception, SystemExit) as error:
        if name in SHIPPED and isinstance(error, ValueError):
            raise  # says itself what is to be changed
        raise ValueError(f"reward.terms: {name} cannot be made ({_said(error)})") from error
    if flaw := _flaw(reward, NEEDS, SCOPES):
        raise ValueError(f"reward.terms: {name} makes no reward: {flaw}; see rewards/reward.py")
    return reward


def _said(error: BaseException) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _flaw(reward: object, known: frozenset[str], scopes: Sequence[str]) -> str | None:
    """Why `reward` is none; None where it is one."""
    needs, scope = getattr(reward, "needs", None), getattr(reward, "scope", None)
    if not callable(reward):
        return "it cannot be called with clips"
    if not isinstance(needs, frozenset) or not needs <= known:
        return f"needs is {needs}; it must be a frozenset out of {', '.join(sorted(known))}"
    if scope not in scopes:
        return f"scope is {scope}; it must be {' or '.join(scopes)}"
    return None


def make_rewards(names: Iterable[str], config: RewardConfig) -> dict[str, Reward]:
    """Every named reward; to be called once before a run starts, so that mistakes are found there."""
    return {name: make_reward(name, config) for name in names}
