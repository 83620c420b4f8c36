"""Networks on the learner: built, filled, and put together for a stage."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from learner.config import DmdConfig, OdeConfig, PretrainConfig
from learner.distillation import Distiller
from learner.ode import OdeInitializer
from learner.pretraining import Pretrainer
from models.config import StudentConfig
from models.files import load_weights
from models.wan import Wan

Encoder = Callable[[Sequence[str]], Tensor]


def load_wan(shape: StudentConfig, path: Path, key: str) -> Wan:
    """A network with the weights of `path`; `key` is named if they do not fit."""
    network = Wan(shape.wan)
    load_weights(network, path, key)
    return network


def make_pretrainer(shape: StudentConfig, config: PretrainConfig, seed: int) -> Pretrainer:
    """A teacher with random weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Pretrainer(Wan(shape.wan), config, shape.horizon_frames, seed)


def make_ode_initializer(
    shape: StudentConfig, config: OdeConfig, teacher: Path, encode_text: Encoder, seed: int
) -> OdeInitializer:
    """A student that starts from the teacher's weights."""
    return OdeInitializer(load_wan(shape, teacher, "teacher"), encode_text, shape, config, seed)


def make_distiller(
    shape: StudentConfig, config: DmdConfig, teacher: Path, init: Path, encode_text: Encoder, seed: int
) -> Distiller:
    """A student from `init`; teacher and critic both from the teacher's weights."""
    student = load_wan(shape, init, "init")
    critic, real = load_wan(shape, teacher, "teacher"), load_wan(shape, teacher, "teacher")
    return Distiller(student, critic, real, encode_text, shape, config, seed)
