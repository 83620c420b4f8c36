"""What keeps a command from starting is one line, and a bug of ours is a traceback."""

import pytest

from settings.startup import end_in_one_line


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (ModuleNotFoundError("no torch", name="torch.nn"), 1),
        (KeyboardInterrupt(), 1),
        (ModuleNotFoundError("no part", name="cluster.nowhere"), 0),
        (ValueError("a bug"), 0),
    ],
)
def test_a_missing_package_and_ctrl_c_are_one_line_and_everything_else_a_traceback(error, lines, capsys):
    end_in_one_line(type(error), error, None)
    shown = capsys.readouterr().err
    assert (type(error).__name__ in shown) == (not lines) and shown.count("\n") == 1
    if "torch" in str(error):
        assert " torch. Fix: source .venv/bin/activate" in shown
