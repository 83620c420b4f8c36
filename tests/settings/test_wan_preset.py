"""preset=wan_1_3b states every key that decides what is learnt, each with its source; preset=wan_mini changes sizes."""

import re

import pytest

import settings
from cluster.config.run_config import Config

LINES = (settings.ROOT / "conf/preset/wan_1_3b.yaml").read_text().splitlines()
LEARNT = ("student", "rollout", "window", "ode", "dmd", "group", "grpo", "reward", "sentinel", "learner", "buffer")
"""Groups of keys that decide what is learnt."""
NO_CHOICE = {
    "window.law", "ode.pairs_dir", "grpo.init", "grpo.critic", "reward.raft_size", "reward.raft_weights", "reward.url",
    "reward.vae", "reward.remote_format", "reward.retries", "reward.max_failure_rate",
}  # fmt: skip
"""Of these groups the law, which has a group of conf/ of its own, the user's files, and services."""
SIZES = {
    "run_dir", "stage", "teacher", "rollout.compile", "rollout.frames", "window.frames", "window.burn_in_frames",
    "dmd.steps", "dmd.ema_start", "reward.window_frames", "learner.compile", "checkpoint.every",
    *(f"student.{name}" for name in ("model", "height", "width", "horizon_frames", "attention_frames")),
    *(f"ode.{name}" for name in ("pairs", "first_pairs", "steps", "batch_size", "solver_steps", "shard_mb")),
    *(f"group.{name}" for name in ("members", "frames", "burn_in_frames")),
    *(f"grpo.{name}" for name in ("steps", "critic_warmup", "std_floor")),
    *(f"sentinel.{name}" for name in ("every", "prompts", "frames")),
    *(f"cluster.{name}" for name in ("rank_gpus", "actor_gpus", "reward_gpus")),
}  # fmt: skip
"""What a laptop and random weights need otherwise: sizes, lengths, no GPU, no compiler, a floor below their rewards."""


def stated() -> dict[str, str]:
    """Map each key of the preset that has a value to what stands behind it."""
    sources, path = {}, []
    for line in LINES:
        match = re.fullmatch(r"( *)(\w+):(?: ([^#]*?))?(?:  # (.+))?", line)
        if match is None:
            assert line.startswith("#"), line
            continue
        path = [*path[: len(match[1]) // 2], match[2]]
        if match[3]:
            sources[".".join(path)] = match[4] or ""
    return sources


def test_every_key_that_decides_what_is_learnt_is_stated_with_its_source():
    expected = {key for key in settings.keys_of(Config) if key.split(".")[0] in LEARNT and key.count(".")}
    expected = {key for key in expected if not key.startswith("reward.learned.")} - NO_CHOICE
    sources = {key: source for key, source in stated().items() if key.split(".")[0] in LEARNT}
    assert sources.keys() == expected
    assert [key for key, source in sources.items() if not source] == []


@pytest.mark.parametrize("cluster", [name for name in settings.choices()["cluster"] if name != "inline"])
def test_every_stage_starts_on_every_cluster(cluster):
    for preset in ("wan_1_3b", "wan_mini"):
        settings.load([f"preset={preset}", f"cluster={cluster}", "stage=[ode,dmd,grpo]", "prompts=prompts.txt"])


def test_the_preset_for_rehearsals_differs_in_sizes_alone():
    def values(preset: str) -> dict[str, object]:
        config = settings.load([f"preset={preset}"])
        found = {}
        for key in settings.keys_of(Config):
            owner = config
            for name in key.split("."):
                owner = getattr(owner, name)
            found[key] = owner
        return found

    whole, mini = values("wan_1_3b"), values("wan_mini")
    assert {key for key in whole if whole[key] != mini[key]} <= SIZES
    assert mini["learner.dtype"] == mini["rollout.dtype"] == "bfloat16"
