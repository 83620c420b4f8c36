"""Commands whose reader goes away, as with `| head`."""

import os
import subprocess
import sys

import pytest

ENDLESS = """
from models.terminal import readable_in_part
with readable_in_part():
    while True:
        print("a line of a long report")
"""
HELP = """
import sys
from models.terminal import answer_help
sys.argv.append("--help")
answer_help(lambda: "a page")
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
