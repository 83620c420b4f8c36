"""List the videos of an evaluation, each with its prompt and the files that its results go to."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from evaluation.video_files import prompts_beside, video_files
from models.errors import ConfigError
from models.file_kinds import other_kind
from models.user_paths import user_path


@dataclass(frozen=True)
class VideoTask:
    """Name one video of a method, and the folder of its results."""

    method: str
    name: str
    path: Path
    prompt: str | None
    results: Path
    """Folder of NAME.jsonl and NAME.json."""
    index: int | None = None
    """Number of the video in a .safetensors file."""
    fps: float = 16.0
    """Rate of a .safetensors file."""
    horizons: tuple[float, ...] = ()
    """Lengths in seconds at which the video is judged, too."""
    real_videos: str | None = None
    """Folder of the real videos that VS-proxy compares with, or `tiny`."""

    @property
    def rows_path(self) -> Path:
        """Return the file of the rows per second."""
        return self.results / f"{self.name}.jsonl"

    @property
    def result_path(self) -> Path:
        """Return the file that marks the video as judged."""
        return self.results / f"{self.name}.json"


@dataclass(frozen=True)
class Skipped:
    """Name a file that is not judged, and the reason."""

    method: str
    file: str
    reason: str


def list_videos(
    methods: Mapping[str, str],
    prompts: Sequence[str] | None,
    out: Path,
    fps: float,
    horizons: Sequence[float] = (),
) -> tuple[list[VideoTask], list[Skipped]]:
    """List the videos of every method by name. Raises ConfigError for folders without videos and prompts that miss.

    `prompts` belong to the videos of each method in the order of their names. A prompt else comes from NAME.txt.
    """
    tasks: list[VideoTask] = []
    skipped: list[Skipped] = []
    for method, folder in methods.items():
        found = list(_videos_in(method, user_path(folder, "videos"), out, fps, skipped))
        if not found:
            problem = f"none of its videos can be read; {skipped[-1].file}: {skipped[-1].reason}"
            raise ConfigError("videos", folder, problem, "name another folder")
        if prompts is not None and len(prompts) != len(found):
            problem = f"{len(prompts)} prompts for the {len(found)} videos of {folder}"
            raise ConfigError("prompts", None, problem, "write one prompt per line, in the order of the videos' names")
        stored = Counter(task.path for task in found if task.index is not None)
        for i, task in enumerate(found):
            if prompts is not None:
                prompt = prompts[i]
            else:
                beside = prompts_beside(task.path, None if task.index is None else stored[task.path])
                prompt = None if beside is None else beside[task.index or 0] or None
            tasks.append(replace(task, prompt=prompt, horizons=tuple(horizons)))
    return tasks, skipped


def _videos_in(method: str, folder: Path, out: Path, fps: float, skipped: list[Skipped]) -> Iterator[VideoTask]:
    """Yield the videos of a folder without prompts; two of one stem keep their suffix in the name."""
    files = video_files(str(folder))
    stems = [path.stem for path in files]
    results = out / "rows" / method
    for path in files:
        name = path.stem if stems.count(path.stem) == 1 else path.name
        if path.suffix.lower() != ".safetensors":
            yield VideoTask(method, name, path, None, results)
            continue
        try:
            if kind := other_kind(path, ("safetensors",)):
                skipped.append(Skipped(method, path.name, f"this is {kind.label}: {kind.cure}"))
                continue
            with safe_open(path, framework="pt") as file:
                shape = file.get_slice("video").get_shape()
        except (SafetensorError, OSError) as error:
            skipped.append(Skipped(method, path.name, f"no tensor `video` [B T 3 H W] can be read ({error})"))
            continue
        if len(shape) != 5 or shape[2] != 3:
            skipped.append(Skipped(method, path.name, f"`video` has shape {shape}, expected [B T 3 H W]"))
            continue
        for index in range(shape[0]):
            yield VideoTask(method, f"{name}_{index:04d}", path, None, results, index, fps)


def natural_order(name: str) -> list[tuple[bool, int | str]]:
    """Return a key by which video2 comes before video10."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part]
