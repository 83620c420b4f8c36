"""Find and read the start of a video: a picture, or the last frames of a clip that it continues."""

import mimetypes
import re
import sys
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from PIL import Image
from torch import Tensor

from actors.generation.generation_config import GenerationConfig
from actors.generation.start_pictures import Fit, fit_notes, fit_picture, read_colour, read_picture
from models.errors import ConfigError
from models.file_kinds import PICTURES, VIDEOS, file_kind, require_kind
from models.network_config import StudentConfig
from models.user_paths import user_path
from models.video_stream import UnreadableVideo, probe, stream_frames
from models.worlds.video_codec import VideoCodec, video_frames

_SAME_RATE = 0.01
"""Relative difference of two frame rates that is not worth a note."""


class Start(NamedTuple):
    """Names the picture or clip that a video begins with."""

    path: Path
    key: str
    """Key that named it."""
    is_clip: bool


class StartReader(NamedTuple):
    """Reads starts for videos of one shape and rate."""

    fit: Fit
    rate: Fraction
    shape: StudentConfig
    codec: VideoCodec

    def read(self, start: Start) -> tuple[Tensor, list[str]]:
        """Read the frames [T 3 H W] in [0, 1] that a video begins with, and notes on them. Raises ConfigError.

        A clip gives as many of its last frames as the student remembers, in whole blocks where it has one.
        """
        if not start.is_clip:
            pixels, notes = read_picture(start.path, start.key, self.fit)
            return _to_tensor([pixels]), notes
        most = video_frames(self.codec, self.shape.context_frames)
        if not most:
            cure = "write a larger student.attention_frames"
            raise ConfigError(start.key, start.path, "the student remembers no frame of it", cure)
        frames, notes = _last_frames(start, self.fit, self.rate, most)
        latent_frames = 1 + (len(frames) - 1) // self.codec.time_stride
        if latent_frames >= self.shape.block_frames:
            latent_frames -= latent_frames % self.shape.block_frames
        kept = video_frames(self.codec, latent_frames)
        return _to_tensor(frames[-kept:]), [*notes, f"the video continues its last {kept} frames"]


def start_reader(config: GenerationConfig, shape: StudentConfig, codec: VideoCodec) -> StartReader:
    """Make the reader for videos of a job. Raises ConfigError for an unknown colour."""
    rows, columns = (size * codec.space_stride for size in (shape.height, shape.width))
    fit = Fit(rows, columns, config.image_fit, read_colour(config.image_background, "image_background"))
    return StartReader(fit, config.rate, shape, codec)


def find_starts(config: GenerationConfig, prompts: Sequence[str], named: Sequence[str | None]) -> list[Start | None]:
    """Find the start of each prompt's video: `named` beside the prompt, else by the keys. Raises ConfigError.

    A folder `images` is matched by the files' names, which are those of the prompts, else by their order.
    """
    paths: list[tuple[str, Path | None]] = [("image", None)] * len(prompts)
    if config.image is not None or config.video is not None:
        key = "image" if config.video is None else "video"
        paths = [(key, user_path(getattr(config, key), key))] * len(prompts)
    elif config.images is not None:
        paths = [("images", path) for path in _matched(user_path(config.images, "images"), prompts)]
    if config.prompts is not None:
        folder = user_path(config.prompts, "prompts").parent
        paths = [
            other if name is None else ("prompts", folder / name) for name, other in zip(named, paths, strict=True)
        ]
    kinds: dict[Path, bool] = {}
    for key, path in paths:
        if path is not None and path not in kinds:
            try:
                kind = file_kind(path)
            except (OSError, ValueError) as error:  # a zero byte in its name
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(key, path, f"cannot be read ({reason})", "name a picture or a clip") from error
            is_picture = kind is not None and kind.name in PICTURES
            if key == "video" and is_picture and kind.name != "gif":
                raise ConfigError(key, path, f"this is {kind.label}", "write image=FILE, which begins with it")
            kinds[path] = key == "video" or (not is_picture and kind is not None and kind.name in VIDEOS)
            if key == "image" and kinds[path]:
                raise ConfigError(key, path, f"this is {kind.label}", "write video=FILE, which continues it")
    return [None if path is None else Start(path, key, kinds[path]) for key, path in paths]


def _matched(folder: Path, prompts: Sequence[str]) -> list[Path]:
    """Match the files of a folder to prompts, by name or by order. Raises ConfigError."""
    try:
        held = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        files = [path for path in held if _is_media(path)]
    except OSError as error:
        raise ConfigError("images", folder, f"cannot be read ({error.strerror})", "name a folder") from error
    if len(files) < len(held):
        left_out = [path.name for path in held if path not in files]
        note = f"{len(left_out)} files that are no pictures or clips are left out, as {left_out[0]}"
        print(f"note: images={folder}: {note}", file=sys.stderr)
    by_words: dict[str, list[Path]] = {}
    for path in files:
        by_words.setdefault(_words(path.stem), []).append(path)
    named = [by_words.get(_words(prompt), []) for prompt in prompts]
    if several := next((paths for paths in named if len(paths) > 1), None):
        problem = f"{' and '.join(path.name for path in several)} are both named as one prompt"
        raise ConfigError("images", folder, problem, "leave one file for each prompt in the folder")
    if all(named):
        return [paths[0] for paths in named]
    if len(files) != len(prompts):
        problem = f"{len(files)} files for {len(prompts)} prompts, which are not their names"
        raise ConfigError("images", folder, problem, "give one file for each prompt, in the order of their names")
    for number, (paths, path) in enumerate(zip(named, files, strict=True), 1):
        if paths and paths != [path]:
            problem = f"{paths[0].name} is named as prompt {number}, and other files as none"
            raise ConfigError("images", folder, problem, "name every file as its prompt, or none of them")
    return files


def _is_media(path: Path) -> bool:
    """Return whether a file is a picture or a clip by its content, or is meant to be one by its ending."""
    kind = file_kind(path)
    meant = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0] in ("image", "video")
    return meant or (kind is not None and kind.name in PICTURES | VIDEOS | {"heic"})


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.replace("_", " ").casefold()))


def _last_frames(start: Start, fit: Fit, rate: Fraction, most: int) -> tuple[list[numpy.ndarray], list[str]]:
    """Read up to `most` frames [H W 3] from the end of a clip, `rate` a second, oldest first. Raises ConfigError."""
    path, recent = start.path, deque()
    try:
        require_kind(path, start.key, VIDEOS | {"gif"})
        info = probe(path)
        if info.is_hdr:
            raise ConfigError(start.key, path, "this is a video of high dynamic range", "map its tones to BT.709 first")
        for frame in stream_frames(path):
            recent.append((frame.time_s, fit_picture(Image.fromarray(frame.pixels), fit)))
            while frame.time_s - recent[0][0] > (most + 1) / rate:
                recent.popleft()
    except (UnreadableVideo, OSError) as error:
        cure = f"write {start.key}=FILE, a whole video"
        raise ConfigError(start.key, path, f"cannot be read ({error})", cure) from error
    times = numpy.array([time_s for time_s, _ in recent])
    wanted = [times.max() - float(number / rate) for number in range(most)]
    nearest = [
        int(numpy.abs(times - time_s).argmin()) for time_s in wanted if time_s > times.min() - float(1 / rate) / 2
    ]
    notes = fit_notes(info.width, info.height, fit)
    if abs(info.fps / float(rate) - 1) > _SAME_RATE:
        notes.append(f"it has {info.fps:.5g} frames per second, of which {float(rate):.5g} are taken")
    return [recent[place][1] for place in reversed(nearest)], notes


def _to_tensor(frames: Sequence[numpy.ndarray]) -> Tensor:
    """Convert frames [H W 3] uint8 to [T 3 H W] in [0, 1]."""
    return torch.from_numpy(numpy.stack(frames)).permute(0, 3, 1, 2) / 255
