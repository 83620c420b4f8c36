"""Keys of the policy gradient: which values are refused, and how."""

import subprocess
import sys

import pytest

from learner.losses.policy import POLICY_LOSSES
from learner.policy_config import LOSSES, SCOPES, GrpoConfig
from learner.stage_config import AdamWConfig
from models.errors import ConfigError

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("steps", "groups", "passes", "minibatches", "critic_updates", "dmd_members")),
        *((name, 0.0) for name in ("clip", "advantage_clip", "std_floor")),
        *((name, NAN) for name in ("clip", "gamma", "kl", "dmd_weight", "correction_cap", "correction_mask")),
        *((name, -1) for name in ("kl", "dmd_weight", "critic_warmup")),
        *((name, 1.0) for name in ("ema_decay", "clip")),
        ("groups", 5),
        ("loss", "grpo"),
        ("std_scope", "global"),
        ("schedule", "linear"),
        ("gamma", 1.1),
        ("gamma", -0.1),
        ("kl", INFINITE),
        ("correction_cap", 0.9),
        ("correction_mask", 1.9),
        ("transition_weights", [1.0, -1.0, 1.0]),
        ("transition_weights", [0.0, 0.0, 0.0]),
        ("transition_weights", [NAN, 1.0, 1.0]),
    ],
)
def test_a_value_without_meaning_is_refused_under_its_key(name, value):
    with pytest.raises(ConfigError) as refused:
        GrpoConfig(**{name: value})
    assert refused.value.key == f"grpo.{name}" and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.0), ("lr", NAN), ("grad_clip", 0.0), ("beta1", 1.0), ("beta2", 1.0), ("weight_decay", 1.0)],
)
def test_a_value_of_a_nested_type_is_refused_under_the_whole_dotted_key(name, value):
    with pytest.raises(ConfigError) as refused:
        GrpoConfig(optimizer=AdamWConfig(**{name: value}))
    assert refused.value.key == f"grpo.optimizer.{name}"


def test_the_losses_that_can_be_chosen_are_those_that_exist():
    assert tuple(POLICY_LOSSES) == LOSSES


def test_every_scope_that_is_named_can_be_chosen():
    assert [GrpoConfig(std_scope=scope).std_scope for scope in SCOPES] == list(SCOPES)


def test_rounds_without_a_warm_up_or_without_either_regulariser_may_be_asked_for():
    assert GrpoConfig(critic_warmup=0, kl=0.0, dmd_weight=0.0).critic_warmup == 0


def test_the_keys_are_read_without_torch():
    code = "import sys, learner.policy_config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
