"""Read the arguments of generate.py."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actors.generation.generation_config import GenerationConfig
from models.network_config import StudentConfig
from settings.compose import load_student

_LITERAL = ("checkpoint", "vae", "text_encoder", "text_cache", "prompt", "prompts", "image", "out", "device", "dtype")


def read_arguments(arguments: Sequence[str]) -> tuple[GenerationConfig, StudentConfig]:
    """The keys of this script, and the student's shape. Raises ValueError, in one line with the key to change."""
    own = {field.name for field in fields(GenerationConfig)}
    given, shape, said = {}, [], dict(argument.partition("=")[::2] for argument in arguments)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f'"{argument}" cannot be read; write key=value; --help lists every key')
        if name in own and not value and name not in ("out", "prompt"):  # which have an answer of their own
            raise ValueError(f"{name}= is empty; give a value, or leave {name} out")
        if name in own:
            # Prompts and paths are taken as they are: Hydra's grammar refuses commas and quotes, YAML colons.
            given[name] = value.replace("${", r"\${") if name in _LITERAL else _parsed(name, value)
        elif name == "preset" or name.startswith("student."):
            shape.append(argument)
        else:
            raise ValueError(f"{name} is no key of generate.py; --help lists every key")
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GenerationConfig), given))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}; --help lists every key") from error
    if math.isinf(config.seconds) and said["seconds"].lower() not in ("inf", ".inf"):
        raise ValueError(f"seconds={said['seconds']} is too many; give fewer, or inf for a video without end")
    student = load_student(shape)
    if config.sink is not None and config.sink % student.block_frames:
        raise ValueError(f"sink={config.sink} is no multiple of {student.block_frames}, the frames of a block")
    return config, student if config.sink is None else replace(student, sink_frames=config.sink)


def _parsed(name: str, value: str) -> object:
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}={value} cannot be read ({' '.join(str(error).split())})") from error
    if name == "seeds" and not isinstance(read, list):
        raise ValueError(f"seeds={value} is no list; write seeds=[{value}]")
    return read
