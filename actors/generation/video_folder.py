"""Generate a folder of videos, each whole or not at all, so that an interrupted command goes on where it stopped."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from actors.generation.generation_config import GenerationConfig
from actors.generation.job import open_job
from actors.generation.video_loop import generate_videos
from models.atomic_files import write_atomic
from models.errors import ConfigError

_UNFINISHED = ".unfinished"
"""Folder, inside that of the videos, of those that are being made."""
_PLACES = ("out", "text_cache", "device", "compile")
"""Keys that say where a video is made and kept, but nothing of its frames beyond rounding."""


def plan_folder(config: GenerationConfig, folder: Path) -> list[GenerationConfig]:
    """Plan a video of its own for each prompt and seed of `config`, to be written into `folder`.

    Checks the whole job before any video starts, and fills the cache of prompt embeddings. Raises ConfigError.
    """
    job = open_job(replace(config, out=str(folder / _UNFINISHED / "check" / "{index}.mp4")))
    return [
        replace(
            config, prompts=None, seeds=None, seed=video.seed, batch=1,
            prompt=video.script[0][1] if len(video.script) == 1 else None,
            prompt_schedule=[list(scene) for scene in video.script] if len(video.script) > 1 else None,
            out=str(folder / f"{number:04d}_{video.seed}.mp4"),
        )
        for number, video in enumerate(job.videos)
    ]  # fmt: skip


def missing_videos(planned: Sequence[GenerationConfig]) -> list[GenerationConfig]:
    """Select the planned videos that are not there yet. Raises ConfigError for one that other keys made."""
    missing = []
    for config in planned:
        path = Path(config.out)
        if not path.is_file():
            missing.append(config)
            continue
        keys = _keys_of(config)
        file = path.with_suffix(".json")
        before = json.loads(file.read_text()) if file.is_file() else {}
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
    prompt = config.prompt or config.prompt_schedule[0][1]
    write_atomic(path.with_suffix(".txt"), f"{prompt}\n".encode())
    write_atomic(path.with_suffix(".json"), json.dumps(_keys_of(config), indent=1).encode())
    generate_videos(open_job(replace(config, out=str(unfinished))), report)
    unfinished.replace(path)


def _keys_of(config: GenerationConfig) -> dict[str, Any]:
    """Return the keys that decide the frames, as JSON has them."""
    keys = {name: value for name, value in asdict(config).items() if name not in _PLACES}
    return json.loads(json.dumps(keys))
