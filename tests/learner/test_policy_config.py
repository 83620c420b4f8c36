"""Keys of the policy gradient: which values are refused, and how."""

import subprocess
import sys
from dataclasses import fields

import pytest

from learner.losses.policy import POLICY_LOSSES
from learner.policy_config import LOSSES, SCOPES, GrpoConfig

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("steps", "groups", "passes", "minibatches", "critic_updates", "dmd_members")),
        *((name, 0.0) for name in ("clip", "advantage_clip", "std_floor", "lr", "grad_clip")),
        *((name, NAN) for name in ("clip", "gamma", "kl", "dmd_weight", "lr", "correction_cap", "correction_mask")),
        *((name, -1) for name in ("kl", "dmd_weight", "critic_warmup")),
        *((name, 1.0) for name in ("beta1", "beta2", "weight_decay", "ema_decay", "clip")),
        ("minibatches", 3),
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
def test_a_value_without_meaning_is_refused_in_one_line_that_names_it(name, value):
    with pytest.raises(ValueError) as refused:
        GrpoConfig(**{name: value})
    assert f"grpo.{name}" in str(refused.value) and str(value) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_losses_that_can_be_chosen_are_those_that_exist():
    assert tuple(POLICY_LOSSES) == LOSSES


def test_every_scope_that_is_named_can_be_chosen_and_refusals_name_them_all():
    assert [GrpoConfig(std_scope=scope).std_scope for scope in SCOPES] == list(SCOPES)
    with pytest.raises(ValueError, match="group, batch or max"):
        GrpoConfig(std_scope="global")


def test_rounds_without_a_warm_up_or_without_either_regulariser_may_be_asked_for():
    assert GrpoConfig(critic_warmup=0, kl=0.0, dmd_weight=0.0).critic_warmup == 0


def test_groups_that_do_not_divide_into_minibatches_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"grpo\.groups = 5 .* grpo\.minibatches = 2"):
        GrpoConfig(groups=5)


def test_every_key_is_documented():
    assert all(field.metadata["doc"] for field in fields(GrpoConfig))


def test_the_keys_are_read_without_torch():
    code = "import sys, learner.policy_config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
