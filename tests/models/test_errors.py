import pickle

from models.errors import ConfigError


def test_a_config_error_is_one_line_with_key_value_problem_and_fix_and_survives_pickling():
    error = ConfigError("window.frames", 20, "longer than a horizon", "write window.frames=18 or less")
    assert str(error) == "window.frames=20: longer than a horizon. Fix: write window.frames=18 or less."
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.key == "window.frames"


def test_values_are_written_as_one_types_them():
    error = ConfigError("stage", ["ode", "dmd"], "p", "f")
    assert str(error).startswith("stage=[ode,dmd]: ")
    assert str(ConfigError("a", True, "p", "f")).startswith("a=true: ")
    assert str(ConfigError("a", None, "p", "f")) == "a: p. Fix: f."
