"""Plan the videos of generate.py: prompts or scenes, seed and output file of each."""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from string import Formatter

from actors.generation.generation_config import PIPE, GenerationConfig
from actors.generation.start_frames import Start, find_starts
from actors.generation.video_formats import VIDEO_ENDINGS
from actors.generation.video_record import keys_of_video, read_record
from actors.prompt_entries import SHOWN_COLUMNS, PromptEntry
from actors.prompt_files import read_prompt_file
from models.atomic_files import partial_of, require_writable
from models.errors import ConfigError
from models.user_paths import user_path

_FORMAT = re.compile(r"(.?[<>^=])?[+ -]?\d{0,3}[,_]?(\.\d{1,3})?[a-zA-Z]?", re.DOTALL)
"""Formats of a field in a pattern of names."""
_NAME_LENGTH = 40
"""Characters of a prompt in the name of its file."""


@dataclass(frozen=True)
class PlannedVideo:
    """Holds the prompts, the seed and the output file of one video."""

    script: tuple[tuple[float, str], ...]
    """(second at which it begins, prompt), the first at 0."""
    seed: int
    path: Path | None
    """Output file; None for the pipe."""
    start: Start | None = None
    """Picture or clip that it begins with."""
    start_frames: int = 0
    """Video frames of the start."""

    @property
    def continued_frames(self) -> int:
        """Count the frames of the clip that it continues, which its file leaves out."""
        return self.start_frames if self.start is not None and self.start.is_clip else 0


def plan_videos(config: GenerationConfig) -> list[PlannedVideo]:
    """Plan a video for each prompt and seed, prompts first.

    Raises ConfigError if prompts or starts cannot be read, or a file cannot be written or exists.
    """
    named: list[str | None] = [None]
    if config.prompt_schedule is not None:
        scripts = [tuple((float(begins_s), prompt) for begins_s, prompt in config.prompt_schedule)]
    elif config.prompts is not None:
        found = read_prompt_file(user_path(config.prompts, "prompts"))
        if not found.entries:
            raise ConfigError("prompts", config.prompts, "the file has no prompt", "write one prompt a line into it")
        notes = [f"{count:,} entries left out: {reason}" for reason, count in found.refused.items()]
        notes += [f"columns that are not read: {', '.join(found.unread[:SHOWN_COLUMNS])}"] if found.unread else []
        if len(found.entries) == 1 and found.entries[0].scenes[0][0] is None:
            scenes = len(found.entries[0].scenes)
            notes.append(f"its only entry is one video of {scenes} scenes; a list of the prompts makes {scenes} videos")
        for note in notes:
            print(f"note: prompts={config.prompts}: {note}", file=sys.stderr)
        scripts, named = [_timed(entry, config) for entry in found.entries], [entry.start for entry in found.entries]
    else:
        scripts = [((0.0, config.prompt),)]
    starts = find_starts(config, [script[0][1] for script in scripts], named)
    begun = list(zip(scripts, starts, strict=True))
    chosen = [(script, seed, start) for script, start in begun for seed in config.seeds or [config.seed]]
    paths = _paths(config, [(script[0][1], seed) for script, seed, _ in chosen])
    return [PlannedVideo(script, seed, path, start) for (script, seed, start), path in zip(chosen, paths, strict=True)]


def single_config(config: GenerationConfig, video: PlannedVideo) -> GenerationConfig:
    """Return the configuration that makes one planned video alone."""
    start = video.start
    return replace(
        config, prompts=None, seeds=None, seed=video.seed, batch=1, images=None,
        prompt=video.script[0][1] if len(video.script) == 1 else None,
        prompt_schedule=[list(scene) for scene in video.script] if len(video.script) > 1 else None,
        image=str(start.path) if start is not None and not start.is_clip else None,
        video=str(start.path) if start is not None and start.is_clip else None,
    )  # fmt: skip


def videos_together(videos: Sequence[PlannedVideo], most: int) -> Iterator[list[PlannedVideo]]:
    """Yield the videos in batches of at most `most`; those of a batch begin and change alike."""
    for _, alike in groupby(videos, key=lambda video: (
        [scene[0] for scene in video.script], video.start is None, video.start_frames, video.continued_frames
    )):  # fmt: skip
        same = list(alike)
        for first in range(0, len(same), most):
            yield same[first : first + most]


def _timed(entry: PromptEntry, config: GenerationConfig) -> tuple[tuple[float, str], ...]:
    """Give the scenes of an entry their times: without any in the file, equal shares.

    Raises ConfigError for scenes and starts that cannot be used.
    """
    if entry.start_fault:
        problem = f"the entry {entry.scenes[0][1]!a:.60} {entry.start_fault}"
        cure = "write the name of one file into the column image or video, relative to the folder of prompts"
        raise ConfigError("prompts", config.prompts, problem, cure)
    if entry.scenes[0][0] is not None:
        return entry.scenes
    if math.isinf(config.seconds):
        problem = f"{entry.scenes[0][1]:.40} begins scenes without times, and the video has no end to share"
        raise ConfigError("prompts", config.prompts, problem, "give their seconds in the file, or a length in seconds")
    share_s = config.seconds / len(entry.scenes)
    return tuple((number * share_s, text) for number, (_, text) in enumerate(entry.scenes))


def _paths(config: GenerationConfig, videos: list[tuple[str, int]]) -> list[Path | None]:
    """Name the file of each (prompt, seed), and check that it can be written. Raises ConfigError."""
    out = config.out
    if out == PIPE:
        if len(videos) > 1:
            raise ConfigError("out", out, f"a pipe takes one video, not {len(videos)}", "write out=FOLDER")
        return [None]
    words = [re.sub(r"\W+", "_", prompt).strip("_")[:_NAME_LENGTH] for prompt, _ in videos]
    numbered = [(i, word, seed) for i, (word, (_, seed)) in enumerate(zip(words, videos, strict=True))]
    if "{" in out:
        _check_pattern(out)
        try:
            names = [out.format(index=i, prompt=word, seed=seed) for i, word, seed in numbered]
        except ValueError as error:
            cure = "write it as {index:04d}, {prompt:.20} or {seed}"
            raise ConfigError("out", out, f"the pattern cannot be filled ({error})", cure) from error
    elif Path(out).suffix.lower() in VIDEO_ENDINGS and not out.endswith("/"):
        if len(videos) > 1:
            cure = f"write out=FOLDER, or name_{{index}}{Path(out).suffix}"
            raise ConfigError("out", out, f"one file for {len(videos)} videos", cure)
        names = [out]
    elif Path(out).suffix and not Path(out).is_dir() and not out.endswith("/"):
        names = [out]  # of no known kind
    else:
        names = [f"{out}/{i:04d}_{word}_{seed}.mp4" for i, word, seed in numbered]
    paths = [user_path(name, "out") for name in names]
    if unknown := [path for path in paths if path.suffix.lower() not in VIDEO_ENDINGS]:
        cure = f"end it in {', '.join(VIDEO_ENDINGS)}, or in / for a folder"
        raise ConfigError("out", unknown[0], "no kind of video that can be written", cure)
    if len(set(paths)) < len(paths):
        raise ConfigError("out", out, "several videos would have one name", "put {index} into it")
    record = None if config.from_json is None else user_path(config.from_json, "from_json").absolute()
    for path in paths:
        beside = path.with_suffix(".json")
        # A record serves the same video in another form, but not one of other keys.
        shared = beside.absolute() == record and read_record(config.from_json)["keys"] == keys_of_video(config)
        require_new(path, (path,) if shared else (path, beside))
    return paths


def _check_pattern(out: str) -> None:
    """Check the fields of a pattern: a width of many digits takes all memory. Raises ConfigError."""
    try:
        fields = [(name, spec) for _, name, spec, _ in Formatter().parse(out) if name is not None]
    except ValueError as error:
        raise ConfigError("out", out, f"no pattern ({error})", "write {{ and }} for braces of the name") from error
    for name, spec in fields:
        if name not in ("index", "prompt", "seed"):
            cure = "write no other fields than {index}, {prompt} and {seed}"
            raise ConfigError("out", out, f"it has no field {{{name}}}", cure)
        if not _FORMAT.fullmatch(spec):
            problem = f"the format {spec!a:.40} of {{{name}}} is none of a few digits"
            raise ConfigError("out", out, problem, "write it as {index:04d} or {prompt:.20}")


def require_new(path: Path, files: Sequence[Path]) -> None:
    """Check that none of `files` exists, and that their folder can be written in. Raises ConfigError."""
    try:
        exists = next((file for file in files if file.exists()), None)
        exists = path if partial_of(path).is_dir() else exists  # the longer name, which may be too long
    except OSError as error:
        raise ConfigError("out", path, f"cannot be written ({error.strerror})", "write another name") from error
    if exists:
        raise ConfigError("out", exists, "exists and is never overwritten", "move it, or write another name")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        require_writable(folder)
    except OSError as error:
        problem = f"cannot be written: {folder} is no folder that you may write in ({error.strerror})"
        raise ConfigError("out", path, problem, "write another path") from error
