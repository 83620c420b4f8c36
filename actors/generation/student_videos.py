"""Generate the videos of several students in the tiny world, with the same prompts and noise for all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from actors.generation.streaming import make_videos
from models.checkpoints.weight_files import check_weights, load_weights, verify_weights
from models.network_config import StudentConfig
from models.noise import evaluation_seeds
from models.wan.network import Wan
from models.worlds.tiny_world import encode_text, to_pixels


def student_videos(
    students: Mapping[str, Path],
    prompts: Sequence[str],
    frames: int,
    seed: int,
    show: Callable[[str, int, int], None],
) -> dict[str, Tensor]:
    """Generate videos [B T 3 H W] in [0, 1] of `frames` latent frames, of every student.

    `show` takes the student, how many of its frames are done, and how many there are. Raises ConfigError.
    """
    shape = StudentConfig()
    with torch.device("meta"):
        outline = Wan(shape.wan)
    for path in students.values():  # all of them, before the first is loaded
        check_weights(path, "checkpoint", outline)
        verify_weights(path, "checkpoint")
    seeds, videos = evaluation_seeds(seed, len(prompts)), {}
    for name, path in students.items():
        student = Wan(shape.wan).eval()
        load_weights(student, path, "checkpoint")
        latents = make_videos(
            student, shape, prompts, seeds, frames, encode_text, lambda done, name=name: show(name, done, frames)
        )
        videos[name] = to_pixels(latents)
    return videos
