"""Generate a folder of videos, each whole or not at all, so that an interrupted command goes on where it stopped."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from actors.generation.generation_config import GenerationConfig
from actors.generation.job import open_job
from actors.generation.planned_videos import single_config
from actors.generation.video_loop import generate_videos
from actors.generation.video_record import keys_of_video, read_record
from models.atomic_files import write_atomic
from models.errors import ConfigError

_UNFINISHED = ".unfinished"
"""Folder, inside that of the videos, of those that are being made."""


def plan_folder(config: GenerationConfig, folder: Path) -> list[GenerationConfig]:
    """Plan a video of its own for each prompt and seed of `config`, to be written into `folder`.

    Checks the whole job before any video starts, and fills the cache of prompt embeddings. Raises ConfigError.
    """
    job = open_job(replace(config, out=str(folder / _UNFINISHED / "check" / "{index}.mp4")))
    return [
        replace(single_config(config, video), out=str(folder / f"{number:04d}_{video.seed}.mp4"))
        for number, video in enumerate(job.videos)
    ]


def missing_videos(planned: Sequence[GenerationConfig]) -> list[GenerationConfig]:
    """Select the planned videos that are not there yet. Raises ConfigError for one that other keys made."""
    missing = []
    for config in planned:
        path = Path(config.out)
        if not path.is_file():
            missing.append(config)
            continue
        keys, file = keys_of_video(config), path.with_suffix(".json")
        try:
            before = read_record(str(file))["keys"]
        except ConfigError as error:  # none, or of an older version
            problem = f"{path.name} has no record of how it was made"
            raise ConfigError("out", path.parent, problem, "write another out, or move the folder") from error
        if differing := sorted(name for name in keys.keys() | before.keys() if keys.get(name) != before.get(name)):
            problem = f"{path.name} was made with another {', '.join(differing)}"
            raise ConfigError("out", path.parent, problem, "write another out, or move the folder")
    return missing


def generate_whole(config: GenerationConfig, report: Callable[[int, int], None] | None = None) -> None:
    """Generate one planned video; the file appears when the video is complete.

    NAME.json beside it has the keys that make it again, NAME.txt its prompt. `report` takes frames done and in all.
    Raises ConfigError and VideoEnded.
    """
    path = Path(config.out)
    unfinished = path.parent / _UNFINISHED / path.name
    unfinished.unlink(missing_ok=True)
    unfinished.with_suffix(".json").unlink(missing_ok=True)
    prompt = config.prompt or config.prompt_schedule[0][1]
    write_atomic(path.with_suffix(".txt"), f"{prompt}\n".encode())
    generate_videos(open_job(replace(config, out=str(unfinished))), report)
    unfinished.with_suffix(".json").replace(path.with_suffix(".json"))
    unfinished.replace(path)
