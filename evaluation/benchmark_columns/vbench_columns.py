"""Measure the paper's columns of videos: clips, one process of VBench for each dimension, CLIP score, means."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.benchmark_columns.benchmark_config import PROMPT_DIMENSIONS, VBenchConfig
from evaluation.benchmark_columns.paper_columns import paper_columns
from evaluation.benchmark_columns.vbench_clips import write_clips
from evaluation.benchmark_columns.vbench_process import DimensionFailed, run_dimension
from evaluation.video_tasks import VideoTask
from models.atomic_files import write_atomic
from models.fingerprint import file_digest
from models.video_stream import UnreadableVideo

VERSION = 1
"""Number of the protocol; scores of another are measured again."""
_KEY = 24
"""Hexadecimal digits of a video's key, which names its clips."""


@dataclass(frozen=True)
class _Judged:
    """Holds what VBench judges of a video: its key without and with the prompt."""

    task: VideoTask
    content: str
    prompted: str

    def key(self, dimension: str) -> str | None:
        """Return the key of the video's score; None where the dimension needs a prompt that is not known."""
        if dimension not in PROMPT_DIMENSIONS:
            return self.content
        return self.prompted if self.task.prompt else None


def _report_line(line: str) -> None:
    print(f"evaluate.py: {line}", file=sys.stderr)


def vbench_columns(
    tasks: Sequence[VideoTask], config: VBenchConfig, out: Path, report: Callable[[str], None] = _report_line
) -> dict[VideoTask, dict[str, float | None]]:
    """Measure dimensions and paper's columns, times 100, of every video; None where one is missing.

    Keeps scores, clips and logs in `out`/vbench: the same call again computes what is missing alone. A dimension that
    fails is missing, and reported in a line. Without VBench and CLIP, there are no columns. Raises ConfigError where
    the CLIP cannot be loaded.
    """
    folder = out / "vbench"
    dimensions = list(config.dimensions) if config.python is not None else []
    if not dimensions:
        report("no columns of VBench; vbench.python=PATH of an interpreter whose environment has it adds them")
    dimensions += ["clip_score"] if config.clip is not None else []
    if not dimensions:
        return {task: {} for task in tasks}
    judged = _identify(tasks, config.clip_s)
    files = {dimension: folder / f"{dimension}.json" for dimension in dimensions}
    scores = {name: json.loads(file.read_text()) if file.is_file() else {} for name, file in files.items()}
    clips = _clips_of(judged, scores, config, folder, report)
    for dimension, known in scores.items():
        new = {key: one for one in judged if (key := one.key(dimension)) and key not in known and one.content in clips}
        if new:
            known |= _measure(dimension, new, clips, config, folder, report)
            write_atomic(files[dimension], (json.dumps(known, indent=1) + "\n").encode())
    _remove_clips(judged, scores, folder)
    return {one.task: _columns(one, scores) for one in judged}


def _identify(tasks: Sequence[VideoTask], clip_s: float) -> list[_Judged]:
    """Compute the keys of videos; the same content has the same key under any name."""
    digests = {path: file_digest(path) for path in dict.fromkeys(task.path for task in tasks)}
    judged = []
    for task in tasks:
        rate = task.fps if task.index is not None else None
        content = json.dumps([VERSION, digests[task.path], task.index, rate, clip_s])
        keys = (hashlib.sha256(f"{content}{text}".encode()).hexdigest()[:_KEY] for text in ("", task.prompt))
        judged.append(_Judged(task, *keys))
    return judged


def _clips_of(
    judged: Sequence[_Judged],
    scores: Mapping[str, Mapping[str, float]],
    config: VBenchConfig,
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, list[Path]]:
    """Write the clips of the videos that some score is missing of, by the key of their content."""
    clips: dict[str, list[Path]] = {}
    for one in judged:
        wanting = any(key not in known for name, known in scores.items() if (key := one.key(name)))
        if not wanting or one.content in clips:
            continue
        try:
            clips[one.content] = write_clips(one.task, folder / "clips" / one.content, config.clip_s)
        except (UnreadableVideo, OSError) as error:
            report(f"no columns of VBench for {one.task.name} of {one.task.method}: {error}")
    return clips


def _measure(
    dimension: str,
    new: Mapping[str, _Judged],
    clips: Mapping[str, Sequence[Path]],
    config: VBenchConfig,
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Compute the scores of videos by their keys; none where the dimension fails."""
    if dimension == "clip_score":
        from evaluation.benchmark_columns.clip_score import clip_score
        from rewards.learned.image_encoders import text_encoder

        encoder = text_encoder(config.clip, "vbench.clip", config.device)
        return {key: clip_score(clips[one.content], one.task.prompt, encoder) for key, one in new.items()}
    paths = {f"{key}_{clip.name}": clip for key, one in new.items() for clip in clips[one.content]}
    prompts = {name: new[name[:_KEY]].task.prompt or "" for name in paths}
    work = folder / dimension
    try:
        values = run_dimension(dimension, paths, prompts, config, work)
    except (DimensionFailed, OSError) as error:
        report(f"{dimension} of VBench is missing for {len(new)} videos: {error} (see {work.with_suffix('.log')})")
        return {}
    return {
        key: sum(each := [value for name, value in values.items() if name[:_KEY] == key]) / len(each) for key in new
    }


def _columns(one: _Judged, scores: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Put the dimensions of a video, times 100, beside the paper's columns."""
    values = {dimension: known.get(one.key(dimension)) for dimension, known in scores.items()}
    percent = {dimension: None if value is None else 100 * value for dimension, value in values.items()}
    return {f"vbench.{dimension}": value for dimension, value in percent.items()} | paper_columns(percent)


def _remove_clips(judged: Sequence[_Judged], scores: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Remove the clips of videos that have every score; those of others serve the next try."""
    for one in judged:
        if all(key in known for name, known in scores.items() if (key := one.key(name))):
            shutil.rmtree(folder / "clips" / one.content, ignore_errors=True)
