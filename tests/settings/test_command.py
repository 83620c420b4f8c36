"""Commands end in one line for a user's mistake, and well when their reader goes away, as with `| head`."""

import os
import signal
import subprocess
import sys

import pytest

from models.errors import ConfigError
from settings import run_errors, user_errors

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


@pytest.fixture(autouse=True)
def signals_as_a_command_finds_them():
    """Other tests of this process start Ray, which leaves handlers of its own."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


def test_a_users_mistake_is_one_line_and_a_fault_of_the_program_a_traceback(capsys):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise ConfigError("dmd.steps", 0, "below 1", "write dmd.steps=1")
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="a fault"), user_errors():
        raise ValueError("a fault")


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_in_one_line_with_its_own_status(number, ignored, tmp_path, capsys):
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if ignored and number != signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a command behind &
    try:
        with pytest.raises(SystemExit) as ended, run_errors(str(tmp_path)):
            signal.raise_signal(number)
        assert signal.getsignal(number) == before[number]
    finally:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
    assert ended.value.code == 128 + number and capsys.readouterr().err.count("\n") == 1


def test_a_signal_goes_the_way_of_ctrl_c_where_that_has_a_handler_of_its_own(tmp_path):
    heard, before = [], signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with run_errors(str(tmp_path)):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
