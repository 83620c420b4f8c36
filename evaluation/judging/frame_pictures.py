"""Pictures of a video for the judge: the planned frames as JPEG, in memory that does not grow with length."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy

from evaluation.judging.frame_plan import FramePlan
from models.video_stream import UnreadableVideo, probe, stream_frames


@dataclass(frozen=True)
class FramePicture:
    """Holds one frame as the judge sees it."""

    index: int
    """Number in the video, from 0."""
    time_s: float
    """Seconds since the video's first frame."""
    pixels: int
    """Height times width."""
    jpeg: bytes

    @property
    def data_url(self) -> str:
        """Return the picture as an address that holds it."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"

    @property
    def record(self) -> dict[str, int | float | str]:
        """Return what a transcript keeps."""
        digest = hashlib.sha256(self.jpeg).hexdigest()
        return {"index": self.index, "time_s": round(self.time_s, 3), "sha256": digest}


def planned_pictures(path: Path, plan: FramePlan) -> list[FramePicture]:
    """Decode a video once and encode its planned frames. Raises UnreadableVideo.

    Decodes it twice where the file does not say how many frames it has, or says it wrongly.
    """
    info = probe(path)
    frames = info.declared_frames
    while True:
        planned, pictures, count = set(plan.indices(info.fps, frames)), [], 0
        for frame in stream_frames(path):
            if count in planned:
                pictures.append(_picture(count, frame.time_s, frame.pixels, plan))
            count += 1
        if count == frames:
            return pictures
        frames = count


def _picture(index: int, time_s: float, pixels: numpy.ndarray, plan: FramePlan) -> FramePicture:
    height, width = pixels.shape[:2]
    if height > plan.rows:
        size = max(1, round(width * plan.rows / height)), plan.rows
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, plan.jpeg_quality])
    if not encoded:
        raise UnreadableVideo(f"frame {index} of {height} x {width} pixels cannot be encoded as JPEG")
    return FramePicture(index, time_s, pixels.shape[0] * pixels.shape[1], jpeg.tobytes())
