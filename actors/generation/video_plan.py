"""Which videos generate.py makes and where each goes: everything that can be refused before a network is loaded."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from actors.generation.generation_config import PIPE, GenerationConfig
from actors.prompts import prompt_texts
from models.atomic_files import partial_of, require_writable
from models.user_paths import user_path

_NAME_LENGTH = 40


@dataclass(frozen=True)
class PlannedScene:
    """A prompt and the second it begins at."""

    begins_s: float
    prompt: str


@dataclass(frozen=True)
class PlannedVideo:
    """One video."""

    scenes: tuple[PlannedScene, ...]
    seed: int
    path: Path | None
    """None is the pipe."""


def plan_videos(config: GenerationConfig) -> list[PlannedVideo]:
    """A video for each prompt and seed, prompts first.

    Raises ValueError where prompts cannot be read, or a file cannot be written or is there already.
    """
    if config.prompt_schedule is not None:
        scripts = [tuple(PlannedScene(float(begins), prompt) for begins, prompt in config.prompt_schedule)]
    else:
        scripts = [(PlannedScene(0.0, prompt),) for prompt in _prompts(config)]
    seeds = [config.seed] if config.seeds is None else config.seeds
    chosen = [(scenes, seed) for scenes in scripts for seed in seeds]
    paths = _paths(config.out, [(scenes[0].prompt, seed) for scenes, seed in chosen])
    return [PlannedVideo(scenes, seed, path) for (scenes, seed), path in zip(chosen, paths, strict=True)]


def read_image(path: str, height: int, width: int) -> Tensor:
    """A picture [3 H W] in [0, 1], scaled and cut in the middle to fill the video. Raises ValueError."""
    try:
        with Image.open(user_path(path, "image")) as picture:
            fitted = ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), (width, height))
    except (OSError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"image={path} cannot be read ({reason}); give a PNG or JPEG file") from error
    return (
        torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1) / 255
    )


def _prompts(config: GenerationConfig) -> list[str]:
    if config.prompts is None:
        return [config.prompt]
    prompts = [text for text in prompt_texts(user_path(config.prompts, "prompts")) if text]
    if not prompts:
        raise ValueError(f"prompts={config.prompts} holds no prompt; write one a line")
    return prompts


def _paths(out: str, videos: list[tuple[str, int]]) -> list[Path | None]:
    if out == PIPE:
        if len(videos) > 1:
            raise ValueError(f"out={PIPE} takes one video, but {len(videos)} are asked for; give a folder")
        return [None]
    if "{" in out:
        names = [_filled(out, index, prompt, seed) for index, (prompt, seed) in enumerate(videos)]
    elif out.lower().endswith(".mp4"):
        if len(videos) > 1:
            raise ValueError(f"out={out} is one file for {len(videos)} videos; give a folder, or name_{{index}}.mp4")
        names = [out]
    else:
        if Path(out).suffix and not Path(out).is_dir():
            raise ValueError(f"out={out} is no kind of video that is written; end it in .mp4, or give a folder")
        names = [f"{out}/{i:04d}_{_word(prompt)}_{seed}.mp4" for i, (prompt, seed) in enumerate(videos)]
    paths = [user_path(name, "out") for name in names]
    if len(set(paths)) < len(paths):
        raise ValueError(f"out={out} gives several videos one name; put {{index}} into it")
    for path in paths:
        _check_writable(path)
    return paths


def _filled(pattern: str, index: int, prompt: str, seed: int) -> str:
    try:
        return pattern.format(index=index, prompt=_word(prompt), seed=seed)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"out={pattern} can be filled with {{index}}, {{prompt}} and {{seed}} only") from error


def _word(prompt: str) -> str:
    return re.sub(r"\W+", "_", prompt).strip("_")[:_NAME_LENGTH]


def _check_writable(path: Path) -> None:
    try:
        taken = path.exists() or partial_of(path).is_dir()  # the longer name, which may be too long
    except OSError as error:
        raise ValueError(f"out={path} cannot be written ({error.strerror}); give another name") from error
    if taken:
        raise ValueError(f"out={path} is there already and is never written over; move it or give another name")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        require_writable(folder)
    except OSError as error:
        raise ValueError(
            f"out={path} cannot be written: {folder} is not a folder that you may write in ({error.strerror}); "
            "change out"
        ) from error
