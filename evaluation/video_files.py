"""Videos of a folder: anything PyAV reads, and safetensors with a tensor `video` uint8 [B T 3 H W]."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".safetensors")


@dataclass(frozen=True)
class Video:
    """One video of a file."""

    name: str
    prompt: str
    """"" where nobody says it."""
    frames: Tensor
    """[T 3 H W] uint8."""


def video_files(folder: str) -> list[Path]:
    """The video files of `folder`, in the order of their names. Raises ValueError where there are none."""
    if not Path(folder).is_dir():
        raise ValueError(f"videos={folder} is no folder; give one that holds videos ({', '.join(SUFFIXES)})")
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"videos={folder} holds no videos; they end in {', '.join(SUFFIXES)}")
    return files


def read_videos(path: Path) -> Iterator[Video]:
    """Every video of a file, with its prompt out of the lines of NAME.txt where that lies beside.

    Raises ValueError where the file is no video, or there are not as many prompts as videos.
    """
    videos = _stored(path) if path.suffix.lower() == ".safetensors" else [_filmed(path)]
    beside = path.with_suffix(".txt")
    prompts = beside.read_text().splitlines() if beside.is_file() else [""] * len(videos)
    if len(prompts) != len(videos):
        raise ValueError(f"{beside} has {len(prompts)} prompts for {len(videos)} videos; write one a line")
    for number, (frames, prompt) in enumerate(zip(videos, prompts, strict=True)):
        yield Video(path.stem if len(videos) == 1 else f"{path.stem}_{number}", prompt, frames)


def _stored(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            if "video" not in file.keys():  # noqa: SIM118
                raise ValueError(f"{path} has no tensor `video`; it must be uint8 [B T 3 H W]")
            video = file.get_tensor("video")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error})") from error
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3 or not video.numel():
        raise ValueError(f"{path}: video is {video.dtype} {list(video.shape)}; it must be uint8 [B T 3 H W]")
    return video


def _filmed(path: Path) -> Tensor:
    try:
        with av.open(str(path)) as file:
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} is no video that can be read ({error})") from error
    if not frames:
        raise ValueError(f"{path} is a video without frames")
    return torch.from_numpy(numpy.stack(frames)).permute(0, 3, 1, 2)
