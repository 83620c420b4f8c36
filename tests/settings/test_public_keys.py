"""Keys are a promise: the list of tests/golden/keys.txt changes only where a change of keys is meant."""

import re
import subprocess
import sys

import pytest

import settings

GOLDEN = settings.ROOT / "tests/golden"
OLD = [line for line in (GOLDEN / "old_keys.txt").read_text().splitlines() if not line.startswith("#")]
KEYS = [line.split() for line in (GOLDEN / "keys.txt").read_text().splitlines()]


def keys_in_help(command):
    """Keys that a command lists, a line each."""
    script = ["-m", command] if "." in command else [f"{command}.py"]
    shown = subprocess.run(
        [sys.executable, *script, "--help", "all"], cwd=settings.ROOT, capture_output=True, text=True, timeout=120
    )
    assert shown.returncode == 0, shown.stderr
    return set(re.findall(r"(?m)^ +([a-z_]+(?:\.[a-z0-9_]+)*)  +\S", shown.stdout))


@pytest.mark.parametrize(
    "command", ["train", "tune", "plan", "generate", "convert", "rewards.try", "models.worlds.make_mini"]
)
def test_the_public_keys_of_a_command_are_those_of_the_golden_list(command):
    golden = {key for owner, key in KEYS if owner == command}
    if command in ("tune", "plan"):  # which take the keys of a run too
        golden |= {key for owner, key in KEYS if owner == "train"}
    if command == "tune":  # which sets these itself, and does not list them
        golden = {key for key in golden if key != "stage" and not key.startswith("debug.")}
    assert keys_in_help(command) == golden


@pytest.mark.parametrize("argument", OLD)
def test_an_old_name_of_a_key_of_train_still_sets_it(argument):
    key = argument.partition("=")[0]
    assert ["train", key] not in KEYS
    settings.load([argument])
