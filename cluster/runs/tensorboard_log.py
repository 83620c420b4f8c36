"""Write the log for TensorBoard: numbers as curves, videos of evaluations as moving pictures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from models.video_stream import stream_frames

_PICTURES_PER_S = 8
_LARGEST_SIDE = 256
"""Rows and columns of a moving picture at most, in pixels: a GIF of a whole video would have 100 MB."""


class TensorBoardLog:
    """Logs to files of events in a folder; every start of a learner adds one."""

    def __init__(self, folder: Path):
        from tensorboardX import SummaryWriter  # half a second to import: only where it is used

        self.writer = SummaryWriter(str(folder))

    def __call__(self, stage: str, step: int, metrics: dict[str, Any], videos: Sequence[Path]) -> None:
        """Log the numbers of a step, and the videos of an evaluation at the step that it evaluated."""
        from tensorboardX.proto.summary_pb2 import Summary

        for name, value in metrics.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"{stage}/{name}", value, step)
        for file in videos:
            picture, width, height = moving_picture(file)
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=picture)
            entry = Summary.Value(tag=f"{stage}/evaluation/video_{file.stem}", image=image)
            self.writer.file_writer.add_summary(Summary(value=[entry]), metrics["evaluation/step"])
        self.writer.flush()


def moving_picture(video: Path) -> tuple[bytes, int, int]:
    """Encode a video as a GIF, smaller and of fewer pictures per second; returns its bytes, width and height.

    tensorboardX's own add_video needs moviepy. Raises UnreadableVideo.
    """
    pictures: list[Image.Image] = []
    for frame in stream_frames(video):
        if frame.time_s * _PICTURES_PER_S >= len(pictures):
            picture = Image.fromarray(frame.pixels)
            picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
            pictures.append(picture)
    encoded = io.BytesIO()
    first, *rest = pictures
    duration_ms = 1000 // _PICTURES_PER_S
    first.save(encoded, format="GIF", save_all=True, append_images=rest, duration=duration_ms, loop=0)
    return encoded.getvalue(), first.width, first.height
