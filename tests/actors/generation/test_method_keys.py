"""Keys of a method that cannot hold together are refused by name."""

from dataclasses import replace

import pytest

from actors.generation.generation_config import GenerationConfig
from models.errors import ConfigError
from models.network_config import StudentConfig

GIVEN = {"prompt": "a cat", "out": "x.mp4"}
SCENES = {"prompt": None, "prompt_schedule": [[0, "a"], [1, "b"]]}


@pytest.mark.parametrize(
    ("keys", "key", "value", "fix"),
    [
        ({"overlap": 3}, "overlap", 3, "extend=overlap"),
        ({"extend": "rolling", "overlap": 3}, "overlap", 3, "extend=overlap"),
        ({"extend": "overlap", "overlap": 12}, "overlap", 12, "overlap=9 or less"),
        ({"extend": "overlap", "overlap": 99}, "overlap", 99, "overlap=9 or less"),
        ({"extend": "overlap", "overlap": 4}, "overlap", 4, "overlap=3 or 6"),
        ({"extend": "overlap", "overlap": 0}, "overlap", 0, ""),
        ({"extend": "overlap", "sink": 3}, "sink", 3, "sink=0"),
        ({"extend": "overlap", "student": StudentConfig(sink_frames=3)}, "sink", 3, "sink=0"),
        ({"extend": "overlap", "student": StudentConfig(horizon_frames=3)}, "extend", "overlap", "horizon_frames"),
        ({"extend": "overlap", "recache": True, **SCENES}, "recache", True, "leave recache out"),
        ({"extend": "overlaps"}, "extend", "overlaps", "overlap"),
    ],
)  # fmt: skip
def test_horizons_that_cannot_overlap_are_refused(keys, key, value, fix):
    with pytest.raises(ConfigError) as error:
        GenerationConfig(**GIVEN | keys)
    assert (error.value.key, error.value.value) == (key, value) and fix in error.value.fix


@pytest.mark.parametrize(
    "keys",
    [
        {"overlap": 9},
        {"overlap": 2, "student": StudentConfig(block_frames=1)},
        {"sink": 0, "student": StudentConfig(sink_frames=3)},
        SCENES,
    ],
)
def test_horizons_may_overlap_in_whole_blocks(keys):
    assert GenerationConfig(**GIVEN | {"extend": "overlap"} | keys).extend == "overlap"


STAGGERED = {"sampler": "staggered"}


@pytest.mark.parametrize(
    ("keys", "key", "value", "fix"),
    [
        ({"stagger": 1}, "stagger", 1, "sampler=staggered"),
        ({"steps": 8}, "steps", 8, "sampler=staggered"),
        ({"solver": "euler"}, "solver", "euler", "sampler=staggered"),
        ({"context_noise": 0.02}, "context_noise", 0.02, "sampler=staggered"),
        ({**STAGGERED, "stagger": 5}, "stagger", 5, "stagger=4"),
        ({**STAGGERED, "stagger": 9, "steps": 8}, "stagger", 9, "stagger=8"),
        ({**STAGGERED, "context_noise": 1.0}, "context_noise", 1.0, ""),
        ({**STAGGERED, "sink": 3}, "sink", 3, "sink=0"),
        ({**STAGGERED, "recache": True, **SCENES}, "recache", True, "leave recache out"),
        ({**STAGGERED, "extend": "overlap"}, "extend", "overlap", "sampler=blocks"),
        ({**STAGGERED, "student": StudentConfig(attention_frames=3)}, "sampler", "staggered", "attention_frames"),
        ({"sampler": "stagger"}, "sampler", "stagger", "staggered"),
    ],
)
def test_windows_that_cannot_be_staggered_are_refused(keys, key, value, fix):
    with pytest.raises(ConfigError) as error:
        GenerationConfig(**GIVEN | keys)
    assert (error.value.key, error.value.value) == (key, value) and fix in error.value.fix


def test_steps_are_spaced_evenly_and_those_of_the_student_without():
    student = StudentConfig()
    assert GenerationConfig(**GIVEN, **STAGGERED, steps=4).denoising_timesteps(student) == student.timesteps
    assert GenerationConfig(**GIVEN, **STAGGERED, steps=2).denoising_timesteps(student) == [1000, 500]
    assert GenerationConfig(**GIVEN, **STAGGERED).denoising_timesteps(student) == student.timesteps
    block_by_block = replace(student, attention_frames=3)
    assert GenerationConfig(**GIVEN, **STAGGERED, stagger=4, student=block_by_block).stagger == 4
