"""Lengths, rates and sizes are checked before any file is opened."""

from fractions import Fraction

import pytest

from actors.generation.generation_config import GenerationConfig
from models.errors import ConfigError
from models.network_config import StudentConfig

GIVEN = {"prompt": "a cat", "out": "x.mp4"}
WAN = StudentConfig(model="wan_1_3b", height=60, width=104, horizon_frames=21, attention_frames=21)


@pytest.mark.parametrize(
    ("fps", "rate"),
    [("16", 16), ("23.976", Fraction(2997, 125)), ("30000/1001", Fraction(30000, 1001)), ("12.5", Fraction(25, 2))],
)
def test_a_rate_is_exact(fps, rate):
    config = GenerationConfig(**GIVEN, fps=fps, seconds=100)
    assert config.rate == rate and config.frames == round(100 * rate)


@pytest.mark.parametrize("fps", ["0", "-1", "16/0", "1e3", "1001", "nan", "sixteen", "1/2/3", "16 ", "0.5"])
def test_another_rate_is_refused(fps):
    with pytest.raises(ConfigError) as error:
        GenerationConfig(**GIVEN, fps=fps)
    assert (error.value.key, error.value.value) == ("fps", fps)


@pytest.mark.parametrize(
    ("name", "pixels", "step", "near"), [("height", 1080, 16, "1072 or 1088"), ("width", 360, 16, "352 or 368"),
                                         ("height", 8, 16, "16")],
)  # fmt: skip
def test_the_nearest_sizes_are_named(name, pixels, step, near):
    with pytest.raises(ConfigError) as error:
        GenerationConfig(**GIVEN, student=WAN, **{name: pixels})
    assert (error.value.key, error.value.value) == (name, pixels)
    assert str(step) in error.value.problem and error.value.fix == f"write {name}={near}"
    assert GenerationConfig(**GIVEN, student=WAN, **{name: 1088}).student == WAN


@pytest.mark.parametrize(
    ("name", "frames", "near"), [("horizon_frames", 19, "18 or 21"), ("attention_frames", 10, "9 or 12"),
                                 ("sink_frames", 1, "3")],
)  # fmt: skip
def test_the_nearest_whole_blocks_are_named(name, frames, near):
    with pytest.raises(ConfigError) as error:
        StudentConfig(**{name: frames})
    assert (error.value.key, error.value.fix) == (f"student.{name}", f"write student.{name}={near}")


def test_quantised_weights_take_no_matrices_beside_them():
    with pytest.raises(ConfigError) as error:
        GenerationConfig(prompt="a", out="a.mp4", lora="a.safetensors", lora_live=True, quantize="int8")
    assert error.value.key == "quantize"
