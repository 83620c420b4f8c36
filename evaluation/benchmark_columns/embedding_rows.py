"""Join the rows per second of the image encoders to those of a judged video."""

from pathlib import Path
from typing import Any

from evaluation.video_evaluation import read_rows
from evaluation.video_tasks import VideoTask


def embedding_rows_path(task: VideoTask) -> Path:
    """Return the file of the encoders' rows per second."""
    return task.results / f"{task.name}.embeddings.jsonl"


def joined_rows(task: VideoTask) -> list[dict[str, Any]]:
    """Read the rows per second of a judged video, with the encoders' columns where they were measured."""
    rows, path = read_rows(task.rows_path), embedding_rows_path(task)
    if not path.is_file():
        return rows
    added = {row["second"]: row for row in read_rows(path)}
    missing = dict.fromkeys(name for row in added.values() for name in row if name != "second")
    return [row | added.get(row["second"], missing) for row in rows]
