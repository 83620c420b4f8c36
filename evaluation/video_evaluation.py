"""Judge one video: write a row of numbers for each second, then the summary that marks it as judged."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
from safetensors import safe_open

from evaluation.metrics import summarise
from evaluation.second_curves import CurveMeter, VideoCurves
from evaluation.stability.real_band import RealBand, read_band
from evaluation.video_tasks import VideoTask
from models.atomic_files import write_atomic
from models.fingerprint import file_digest
from models.video_stream import Frame, UnreadableVideo, VideoInfo, probe, stream_frames

VERSION = 2
"""Number of the measurement; results of another are measured again."""
_DIGITS = 9
_ROUNDING = 1e-3
"""Distance from 0 and 1 that numbers of a decoder may have."""


def evaluate_video(task: VideoTask, report: Callable[[int, int], None] = lambda done, frames: None) -> dict[str, Any]:
    """Judge a video and write its files; a video that is judged already is only read.

    `report` takes the frames done and in all (0 where the file does not say) after each second of the video. The
    numbers do not depend on the process, the number of workers, or an earlier try that was killed. Raises
    UnreadableVideo.
    """
    try:
        digest = file_digest(task.path)
    except OSError as error:
        raise UnreadableVideo(f"{task.path.name} cannot be read ({error.strerror})") from error
    band = None if task.real_videos is None else read_band(task.real_videos)
    known = _judged(task, digest, band)
    if known is not None:
        return known
    cv2.setNumThreads(1)  # a worker is one process per core
    info, frames = open_video(task)
    meter = CurveMeter(info.fps, unlike=band and band.unlike)
    each = max(1, round(info.fps))
    for number, frame in enumerate(frames, 1):
        meter.add(frame)
        if number % each == 0:
            report(number, info.expected_frames)
    curves = meter.finish()
    rows = [{name: _rounded(value) for name, value in row.items()} for row in curves.rows]
    write_atomic(task.rows_path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    result = {
        "version": VERSION, "digest": digest, "method": task.method, "name": task.name, "file": task.path.name,
        "prompt": task.prompt, "real_videos": band and band.digest,
        "fps": _rounded(info.fps), "height": info.height, "width": info.width,
        "frames": curves.frames, "seconds": _rounded(curves.rows[-1]["second"] + 1),
        "metrics": _metrics(curves, task.prompt),
        "horizons": {
            f"{end_s:g}": _metrics(meter.until(end_s), task.prompt)
            for end_s in task.horizons if end_s <= curves.rows[-1]["second"] + 1
        },
    }  # fmt: skip
    write_atomic(task.result_path, (json.dumps(result, indent=2) + "\n").encode())
    return result


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a judged video."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _judged(task: VideoTask, digest: str, band: RealBand | None) -> dict[str, Any] | None:
    """Return the result of the same file, prompt and band of real videos, if there is one."""
    if not (task.result_path.is_file() and task.rows_path.is_file()):
        return None
    result = json.loads(task.result_path.read_text())
    own = (VERSION, digest, task.prompt, band and band.digest)
    same = tuple(result.get(name) for name in ("version", "digest", "prompt", "real_videos")) == own
    reached = {f"{end_s:g}" for end_s in task.horizons if end_s <= result["seconds"]} if same else set()
    return result if same and reached <= result["horizons"].keys() else None


def _metrics(curves: VideoCurves, prompt: str | None) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in summarise(curves, prompt or "").items()}


def open_video(task: VideoTask, spacing_s: float = 0.0) -> tuple[VideoInfo, Iterator[Frame]]:
    """Open a film or a video of a tensor. Raises UnreadableVideo.

    Of each stretch of `spacing_s` seconds of a film only the first frame is yielded.
    """
    if task.index is None:
        return probe(task.path), stream_frames(task.path, spacing_s)
    with safe_open(task.path, framework="pt") as file:
        shape = file.get_slice("video").get_shape()
    if len(shape) != 5 or shape[2] != 3 or not shape[1]:
        raise UnreadableVideo(f"{task.path.name} has `video` of shape {shape}, expected [B T 3 H W]")
    return VideoInfo(task.fps, shape[3], shape[4], shape[1]), _tensor_frames(task)


def _tensor_frames(task: VideoTask) -> Iterator[Frame]:
    """Yield the frames of one video of a .safetensors file, read one by one."""
    with safe_open(task.path, framework="pt") as file:
        video = file.get_slice("video")
        for i in range(video.get_shape()[1]):
            frame = video[task.index : task.index + 1, i : i + 1][0, 0]
            if frame.is_floating_point():
                if not -_ROUNDING <= frame.min() <= frame.max() <= 1 + _ROUNDING:  # NaN too
                    found = f"{frame.min():.3g} to {frame.max():.3g}"
                    raise UnreadableVideo(f"`video` has numbers from {found}: write uint8, or floats from 0 to 1")
                frame = (frame.clamp(0, 1) * 255).round().byte()
            yield Frame(i / task.fps, frame.permute(1, 2, 0).contiguous().numpy())


def _rounded(value: float | None) -> float | None:
    """Round to nine digits: files of two machines then differ in nothing but what a user would see."""
    return None if value is None else float(f"{value:.{_DIGITS}g}")
