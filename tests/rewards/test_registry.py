import sys
from collections.abc import Callable

import pytest
import torch

from rewards.registry import SHIPPED, make_reward, make_rewards
from rewards.reward_config import RewardConfig

NUMBER = 3


class Bright:
    needs = frozenset({"pixels"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self.window_frames = config.window_frames

    def __call__(self, clips):
        return torch.zeros(len(clips))


def made(**attributes) -> Callable[[RewardConfig], object]:
    return type("Made", (Bright,), attributes)


needs_audio = made(needs=frozenset({"audio"}))
needs_a_list = made(needs=["pixels"])
of_videos = made(scope="video")
takes_nothing = made(__init__=lambda self: None)


def makes_nothing(config: RewardConfig) -> None:
    return None


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "plugins", sys.modules[__name__])


def says_two_lines(config):
    raise ValueError("could not convert\nstring to float: 'x'")


def exits(config):
    raise SystemExit(0)


def makes_no_call(config):
    return object()


def test_a_module_that_fails_while_it_is_imported_is_refused_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "broken_rewards.py").write_text("raise RuntimeError('no gpu')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"broken_rewards\.X cannot be imported \(RuntimeError: no gpu\)"):
        make_reward("broken_rewards.X", RewardConfig())


def test_every_shipped_reward_can_be_made():
    rewards = make_rewards(SHIPPED, RewardConfig(url="http://127.0.0.1:1"))
    assert rewards.keys() == SHIPPED.keys()


def test_a_dotted_path_makes_a_reward_of_the_configuration():
    assert make_reward("plugins.Bright", RewardConfig(window_frames=7)).window_frames == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing_package.Reward", "missing_package.Reward cannot be imported"),
        ("plugins.Missing", "plugins.Missing cannot be imported"),
        ("plugins.NUMBER", "plugins.NUMBER is int; it must be a callable"),
        ("plugins.needs_audio", "plugins.needs_audio makes no reward: needs is"),
        ("plugins.needs_a_list", "plugins.needs_a_list makes no reward: needs is"),
        ("plugins.of_videos", "scope is video"),
        ("plugins.takes_nothing", "plugins.takes_nothing is no factory of a reward"),
        ("plugins.makes_nothing", "plugins.makes_nothing makes no reward"),
        (
            "plugins.says_two_lines",
            "plugins.says_two_lines cannot be made .ValueError: could not convert string to float",
        ),
        ("plugins.exits", "plugins.exits cannot be made .SystemExit: 0"),
        ("plugins.makes_no_call", "plugins.makes_no_call makes no reward: it cannot be called"),
        ("brightness", 'no reward is called "brightness"; reward.terms takes continuity'),
    ],
)
def test_what_is_no_reward_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_reward(name, RewardConfig())
    assert "\n" not in str(caught.value)
