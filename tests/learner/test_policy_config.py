"""What stage grpo refuses before anything starts."""

import subprocess
import sys
from dataclasses import fields

import pytest

from learner.policy_config import LOSSES, GrpoConfig, SentinelConfig
from learner.policy_losses import POLICY_LOSSES

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("steps", "groups", "segment_frames", "passes", "minibatches", "critic_updates")),
        *((name, 0.0) for name in ("clip", "advantage_clip", "std_floor", "lr", "grad_clip")),
        *((name, NAN) for name in ("clip", "gamma", "kl", "dmd_weight", "lr", "correction_cap", "correction_mask")),
        *((name, -1) for name in ("kl", "dmd_weight", "critic_warmup")),
        *((name, 1.0) for name in ("beta1", "beta2", "weight_decay", "ema_decay", "clip")),
        ("members", 1),
        ("members", 0),
        ("minibatches", 3),
        ("loss", "grpo"),
        ("std_scope", "global"),
        ("transitions", "two"),
        ("noise", "shared"),
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("every", "prompts", "frames", "tolerance", "rate_factor")),
        *((name, 1.0) for name in ("tolerance", "rate_factor")),
        ("action", "warn"),
        ("metrics", []),
        ("metrics", ["exposure_drift", "exposure_drift"]),
    ],
)
def test_a_sentinel_without_meaning_is_refused_in_one_line_that_names_it(name, value):
    with pytest.raises(ValueError) as refused:
        SentinelConfig(**{name: value})
    assert f"sentinel.{name}" in str(refused.value) and str(value) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_noise_shared_but_for_one_transition_needs_one_transition_that_learns():
    assert GrpoConfig(noise="one", transitions="one").noise == "one"
    with pytest.raises(ValueError, match=r"grpo\.noise is one.*grpo\.transitions=one"):
        GrpoConfig(noise="one", transitions="all")


def test_the_losses_that_can_be_chosen_are_those_that_exist():
    assert tuple(POLICY_LOSSES) == LOSSES


def test_transitions_count_alike_unless_each_is_given_a_weight():
    assert GrpoConfig().weights_of(3) == [1.0, 1.0, 1.0]
    assert GrpoConfig(transition_weights=[0.0, 1.0, 2.0]).weights_of(3) == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"grpo\.transition_weights is \[1\.0, 2\.0\].* 3 "):
        GrpoConfig(transition_weights=[1.0, 2.0]).weights_of(3)


@pytest.mark.parametrize("config", [GrpoConfig, SentinelConfig])
def test_every_key_is_documented(config):
    assert all(field.metadata["doc"] for field in fields(config))


def test_the_keys_are_read_without_torch():
    code = "import sys, learner.policy_config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
