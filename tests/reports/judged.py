"""Videos and evaluations of them, small enough to be judged within a test."""

from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

from evaluation.evaluation_table import evaluation_of
from evaluation.metrics import metrics
from evaluation.video_evaluation import evaluate_video
from evaluation.video_tasks import Skipped, list_videos
from reports.evaluation_report import write_evaluation_report


def moving_square(frames: int, height: int, width: int, fade: float = 0.0) -> numpy.ndarray:
    """A bright square that moves to the right over a grey ramp [T H W 3], darker and darker by `fade`."""
    video = numpy.empty((frames, height, width, 3), numpy.uint8)
    video[:] = numpy.linspace(60, 180, width, dtype=numpy.uint8)[None, None, :, None]
    for i, frame in enumerate(video):
        left = (2 * i) % (width - width // 4)
        frame[height // 4 : height // 2, left : left + width // 4] = (240, 80, 40)
        frame[:] = frame * (1 - fade * i / frames)
    return video


def write_tensor(path: Path, videos: list[numpy.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"video": torch.from_numpy(numpy.stack(videos)).permute(0, 1, 4, 2, 3).contiguous()}, path)


def judge_folders(
    folders: dict[str, Path], out: Path, skipped: tuple[Skipped, ...] = (), horizons: tuple[float, ...] = ()
):
    """Judge folders of videos and write report.html: the evaluation, the tasks, and the page's text."""
    tasks, _ = list_videos({name: str(folder) for name, folder in folders.items()}, None, out, 8.0, horizons)
    results = [evaluate_video(task) for task in tasks]
    evaluation = evaluation_of(results, skipped, metrics(), {"title": "Trial", "tensor_fps": 8.0}, "0123abc")
    evaluation["judge"] = {"model": "a<model>", "missing": 3}
    write_evaluation_report(out / "report.html", evaluation, tasks)
    return evaluation, tasks, (out / "report.html").read_text()
