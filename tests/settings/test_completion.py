"""Shells complete the keys of a command, and the choices of its groups."""

import subprocess
import sys

import pytest

import settings
from cluster.config.run_config import Config
from models.errors import ConfigError
from settings import completion

ASK = """
source /dev/stdin
while read -ra COMP_WORDS <&3; do
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    _longtake
    echo "${COMPREPLY[*]}"
done
"""
LINES = {
    "python train.py dmd.optimizer.": {f"{name}=" for name in settings.keys_of(Config) if "dmd.optimizer." in name},
    "python train.py preset = s": {"smoke", "scan"},
    "python train.py preset =": set(settings.choices()["preset"]),
    "python train.py preset=s": {"preset=smoke", "preset=scan"},
    "python tune.py scan.kee": {"scan.keep="},
    "python plan.py stag": {"stage="},
    "python -m rewards.try cli": {"clips="},
    "python train.py log": {"log.to="},
    "python generate.py from": {"from_json=", "from="},
    "python other.py s": set(),
    "python train.py seed = 3": set(),
}


def test_bash_completes_keys_and_choices(tmp_path):
    shown = subprocess.run(
        [sys.executable, "-m", "settings.completion", "bash"], cwd=settings.ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in LINES))
    ask = ["bash", "-c", f"exec 3<'{tmp_path}/lines'\n{ASK}"]
    answer = subprocess.run(ask, input=shown.stdout, capture_output=True, text=True, check=True)
    assert [set(line.split()) for line in answer.stdout.splitlines()] == list(LINES.values())


def test_another_shell_is_a_mistake():
    with pytest.raises(ConfigError) as error:
        completion.main(["fish"])
    assert error.value.key == "SHELL"
