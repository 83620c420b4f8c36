"""Commands whose reader goes away, as with `| head`."""

import os
import subprocess
import sys

import pytest

ENDLESS = """
import settings
with settings.user_errors():
    while True:
        print("a line of a long report")
"""
HELP = """
import sys, settings
from rewards.reward_config import RewardConfig
sys.argv.append("--help")
settings.command(None, RewardConfig, "a page")
"""


@pytest.mark.parametrize(("code", "lines"), [(ENDLESS, 1), (HELP, 0)])
def test_a_reader_that_leaves_early_ends_the_command_well_and_without_a_word(code, lines):
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as reader,
        subprocess.Popen([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE) as command,
    ):
        os.close(writing)
        for _ in range(lines):
            assert reader.readline() == b"a line of a long report\n"
        reader.close()
        assert command.communicate(timeout=60) == (None, b"") and command.returncode == 0
