"""Make the configured rewards, and the optical flow engine that they read."""

import importlib

import torch

from models.errors import ConfigError
from rewards.flow.optical_flow import DisFlow, FlowEngine
from rewards.reward import NEEDS, SCOPES, Reward
from rewards.reward_config import SHIPPED, RewardConfig, check_reward_name


def make_reward(name: str, config: RewardConfig) -> Reward:
    """Import and make the reward of that name or dotted path. Raises ConfigError where that fails."""
    check_reward_name(name)
    module, _, attribute = SHIPPED.get(name, name).rpartition(".")

    def rejected(problem: str, fix: str, error: BaseException | None = None) -> ConfigError:
        why = "" if error is None else f" ({type(error).__name__}: {' '.join(str(error).split())})"
        return ConfigError("reward.terms", name, problem + why, fix)

    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a plug-in may raise anything while it is imported
        raise rejected("this reward cannot be imported", "correct its module, or the dotted path", error) from error
    if not callable(factory):
        raise rejected(f"this is {type(factory).__name__}", "name a callable of a RewardConfig")
    try:
        reward = factory(config)
    except TypeError as error:
        raise rejected(
            "this is no factory of a reward", "write a callable of a RewardConfig, see rewards/reward.py", error
        ) from error
    except (Exception, SystemExit) as error:
        if name in SHIPPED and isinstance(error, ValueError):
            raise  # names the key and the fix itself
        raise rejected("this reward cannot be made", "correct its constructor", error) from error
    needs, scope = getattr(reward, "needs", None), getattr(reward, "scope", None)
    if not callable(reward):
        flaw = "the object it makes cannot be called with clips"
    elif not isinstance(needs, frozenset) or not needs <= NEEDS:
        flaw = f"needs is {needs}; it must be a frozenset out of {', '.join(sorted(NEEDS))}"
    elif scope not in SCOPES:
        flaw = f"scope is {scope}; it must be {' or '.join(SCOPES)}"
    else:
        return reward
    raise rejected(flaw, "follow the Reward protocol in rewards/reward.py")


def make_flow_engine(config: RewardConfig) -> FlowEngine:
    """Make DIS, or RAFT on the GPU where there is one. Raises ConfigError where RAFT's weights are missing."""
    if config.flow == "dis":
        return DisFlow(config.upsample, config.finest_scale)
    from rewards.flow.raft import RaftFlow  # torchvision takes a second to import

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return RaftFlow(config.raft_weights, config.raft_size, config.upsample, device)
