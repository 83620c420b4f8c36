"""Read the videos of a folder: films that PyAV decodes, and safetensors with a tensor `video` uint8 [B T 3 H W]."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import ConfigError
from models.file_kinds import line_fault, read_text, require_kind
from models.video_stream import UnreadableVideo, stream_frames

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".safetensors")


@dataclass(frozen=True)
class Video:
    """Holds one video of a file."""

    name: str
    prompt: str
    """Empty where the file has no prompts."""
    frames: Tensor
    """[T 3 H W] uint8."""


def video_files(folder: str, name: str = "videos") -> list[Path]:
    """List the video files of `folder` by name; a single file is listed alone.

    Raises ConfigError of the key `name` where there are none. Folders inside it are not searched.
    """
    given, kinds = Path(folder), ", ".join(SUFFIXES)
    if given.is_file():
        if given.suffix.lower() in SUFFIXES:
            return [given]
        raise ConfigError(name, folder, "this file is no video", f"name a file or folder of {kinds}")
    if not given.is_dir():
        raise ConfigError(name, folder, "there is no such folder or file", f"name a folder of {kinds}")
    visible = (path for path in given.iterdir() if not path.name.startswith("."))
    files = sorted(path for path in visible if path.suffix.lower() in SUFFIXES and not path.is_dir())
    if not files:
        inner = any(path.is_dir() for path in given.iterdir())
        problem = "this folder has no videos" + (" (folders inside it are not searched)" if inner else "")
        raise ConfigError(name, folder, problem, f"name a folder of {kinds}")
    return files


def read_videos(path: Path) -> Iterator[Video]:
    """Yield every video of a file, with its prompt from NAME.txt, if that file is there.

    Raises ConfigError where the file cannot be decoded, or has not as many prompts as videos.
    """
    stored = path.suffix.lower() == ".safetensors"
    try:
        if stored:
            require_kind(path, "videos", ("safetensors",))
            with safe_open(path, framework="pt") as file:
                # .keys() is needed: safe_open is no mapping.
                videos = file.get_tensor("video") if "video" in file.keys() else None  # noqa: SIM118
        else:
            frames = numpy.stack([frame.pixels for frame in stream_frames(path)])
            videos = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]
    except (SafetensorError, OSError, UnreadableVideo) as error:
        raise ConfigError("videos", path, f"it cannot be decoded ({error})", "repair or remove it") from error
    if videos is None:
        raise ConfigError("videos", path, "it has no tensor `video`", "write `video` as uint8 [B T 3 H W]")
    if videos.dtype != torch.uint8 or videos.ndim != 5 or videos.shape[2] != 3 or not videos.numel():
        problem = f"`video` is {videos.dtype} {list(videos.shape)}"
        raise ConfigError("videos", path, problem, "write it as uint8 [B T 3 H W]")
    prompts = prompts_beside(path, len(videos) if stored else None) or [""] * len(videos)
    for number, (frames, prompt) in enumerate(zip(videos, prompts, strict=True)):
        yield Video(path.stem if len(videos) == 1 else f"{path.stem}_{number}", prompt, frames)


def prompts_beside(path: Path, stored: int | None) -> list[str] | None:
    """Read NAME.txt beside a file: the text of a film, or a line for each of `stored` videos; None without one.

    Raises ConfigError for another kind of file, for JSON and other formats, and for another number of lines.
    """
    text = path.with_suffix(".txt")
    if not text.is_file():
        return None
    try:
        lines = re.split(r"\r\n|\r|\n", read_text(text, "videos").rstrip())
    except OSError as error:
        raise ConfigError("videos", text, f"cannot be read ({error.strerror})", "repair or remove it") from error
    for number, line in enumerate(lines if stored else lines[:1], 1):  # a film's text may have paragraphs and lists
        if line.strip() and (fault := line_fault(line)):
            raise ConfigError("videos", text, f"line {number} is {fault}, no prompt", "write the prompt alone")
    prompts = [" ".join(line.split()) for line in lines]
    if stored is None:
        return [" ".join(prompts).strip()]
    if len(prompts) != stored:
        problem = f"{len(prompts)} prompts for {stored} videos of {path.name}"
        raise ConfigError("videos", text, problem, "write one prompt per line")
    return prompts
