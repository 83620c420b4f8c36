import sys
from collections.abc import Callable

import pytest
import torch

from models.errors import ConfigError
from rewards.learned_config import LEARNED
from rewards.registry import make_reward
from rewards.reward_config import SHIPPED, RewardConfig

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
    (tmp_path / "broken_rewards.py").write_text("raise RuntimeError('no-gpu')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        make_reward("broken_rewards.X", RewardConfig())
    assert caught.value.value == "broken_rewards.X" and "RuntimeError: no-gpu" in str(caught.value)


def test_every_shipped_reward_can_be_made():
    config = RewardConfig(url="http://127.0.0.1:1")
    rewards = {name: make_reward(name, config) for name in SHIPPED if name not in LEARNED}
    assert rewards.keys() == SHIPPED.keys() - LEARNED.keys()


def test_a_dotted_path_makes_a_reward_of_the_configuration():
    assert make_reward("plugins.Bright", RewardConfig(window_frames=7)).window_frames == 7


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("missing_package.Reward", "missing_package"),
        ("plugins.Missing", "Missing"),
        ("plugins.NUMBER", "int"),
        ("plugins.needs_audio", "audio"),
        ("plugins.needs_a_list", "['pixels']"),
        ("plugins.of_videos", "video"),
        ("plugins.takes_nothing", "TypeError"),
        ("plugins.makes_nothing", "Reward"),
        ("plugins.says_two_lines", "ValueError"),
        ("plugins.exits", "SystemExit: 0"),
        ("plugins.makes_no_call", "called"),
        ("brightness", "continuity"),
    ],
)
def test_what_is_no_reward_is_refused_in_one_line_that_names_the_key_and_the_cause(name, part):
    with pytest.raises(ConfigError) as caught:
        make_reward(name, RewardConfig())
    assert (caught.value.key, caught.value.value) == ("reward.terms", name)
    assert part in str(caught.value) and "\n" not in str(caught.value)
